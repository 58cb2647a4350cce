"""The Hugging Face Hub: find, download, verify and read published files."""
