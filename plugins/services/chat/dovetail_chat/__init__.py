"""Language models that other plugins talk to: behind an endpoint, or local."""

from dovetail_chat.voice import Failed, Voice, VoiceSettings, voice_of

__all__ = ["Failed", "Voice", "VoiceSettings", "voice_of"]
