"""Numbers of a student, a teacher or a folder of images, each with its protocol."""
