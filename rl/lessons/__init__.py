"""What nano is taught with: exercises to read and to find, and labels for every place and every word."""
