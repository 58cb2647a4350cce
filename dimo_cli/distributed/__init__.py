"""Starting the processes of one job, and saying what became of them."""
