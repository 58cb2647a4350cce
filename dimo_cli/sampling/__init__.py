"""Images of students and teachers, each with the protocol that makes it repeatable."""
