"""What an episode leaves: transcripts, terminal output, HTML."""
