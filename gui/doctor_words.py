"""Doctor's words: what the doctor found, in the language of the window."""

from __future__ import annotations

from PyQt5.QtCore import QT_TRANSLATE_NOOP, QCoreApplication

from deploy.phrases import reworded

# The context that pylupdate5 gives to `phrase` outside of classes.
_CONTEXT = "@default"
# Every check of `deploy.doctor.TOPICS`.
CHECKS = (
    QT_TRANSLATE_NOOP("DoctorChecks", "chip"),
    QT_TRANSLATE_NOOP("DoctorChecks", "kernel"),
    QT_TRANSLATE_NOOP("DoctorChecks", "memory"),
    QT_TRANSLATE_NOOP("DoctorChecks", "temperature"),
    QT_TRANSLATE_NOOP("DoctorChecks", "threads"),
    QT_TRANSLATE_NOOP("DoctorChecks", "NPU"),
    QT_TRANSLATE_NOOP("DoctorChecks", "NPU driver"),
    QT_TRANSLATE_NOOP("DoctorChecks", "driver version"),
    QT_TRANSLATE_NOOP("DoctorChecks", "NPU device"),
    QT_TRANSLATE_NOOP("DoctorChecks", "NPU load"),
    QT_TRANSLATE_NOOP("DoctorChecks", "runtime library"),
    QT_TRANSLATE_NOOP("DoctorChecks", "wheel"),
    QT_TRANSLATE_NOOP("DoctorChecks", "ONNX Runtime"),
    QT_TRANSLATE_NOOP("DoctorChecks", "model"),
    QT_TRANSLATE_NOOP("DoctorChecks", "transfers"),
    QT_TRANSLATE_NOOP("DoctorChecks", "Qt"),
    QT_TRANSLATE_NOOP("DoctorChecks", "NPU clock"),
    QT_TRANSLATE_NOOP("DoctorChecks", "DDR clock"),
    QT_TRANSLATE_NOOP("DoctorChecks", "CPU clock"),
    QT_TRANSLATE_NOOP("DoctorChecks", "decoders"),
)


def in_words(text: str) -> str:
    """Return what a finding tells, or its cure, in the language of the window; what is no phrase stays as it is."""
    return reworded(text, lambda template: QCoreApplication.translate(_CONTEXT, template))


def check_name(check: str) -> str:
    """Return the name of a check in the language of the window."""
    return QCoreApplication.translate("DoctorChecks", check)
