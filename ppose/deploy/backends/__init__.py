"""One module for each backend; importing it imports the backend."""
