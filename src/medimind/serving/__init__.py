"""The tuned model served: an OpenAI-compatible API, the phone's app, and files for the device."""
