"""What happens in a market: events, instruments, and how both travel."""
