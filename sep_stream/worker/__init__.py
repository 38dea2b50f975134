"""The Faust side: one agent a stage over a transport that hands over whole fetches."""
