"""What may be drawn and shown: a hook for prompts and pictures. Off unless the operator names one."""

from __future__ import annotations

from laur.serve.safety.base import Safety, open_safety

__all__ = ["Safety", "open_safety"]
