"""What a choice costs or gains in quality: models, selectors, fast forwards, low precision, exports."""
