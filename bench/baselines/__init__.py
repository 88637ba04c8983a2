"""What a user would write without Retake, as good as the libraries let it be: what a speed-up is against."""
