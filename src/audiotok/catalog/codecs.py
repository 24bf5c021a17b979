"""Every codec of the catalog: those that `load` gives, those of local files, and those that it can only explain."""

from .codecs_audio import AUDIO_CODECS
from .codecs_speech import SPEECH_CODECS
from .codecs_tokens import TOKEN_CODECS
from .codecs_unavailable import UNAVAILABLE

CODECS = [*AUDIO_CODECS, *TOKEN_CODECS, *SPEECH_CODECS, *UNAVAILABLE]
