"""Records of episodes: transcripts, terminal output, HTML."""
