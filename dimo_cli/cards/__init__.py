"""Model cards: their facts, their text, licenses and works to cite."""
