"""What a choice costs or gains in quality: models, selectors, fast forwards, low precision, exports."""

from engine.settings.environment import offline

offline()  # here, since each of these programs imports the model libraries, which read it once
