"""The command line: words in, library calls, words out."""
