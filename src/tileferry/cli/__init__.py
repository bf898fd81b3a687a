"""Words typed → settings; errors → exit codes.

`app` holds the verbs, `options` what they share of options; both import little, so that `--help` is there at
once. Each verb's work is a module of its own, imported when the verb is run: `uploading` (upload), `confirming`
(confirm), `emulating` (emulator), `looking` (status, results). What they share: `screen` (what a person sees
meanwhile), `closing` (the summary), `signals`, `output` (writing to a stream that may be full or gone) and
`crash` (a mistake of ours, told without secrets).
"""

from __future__ import annotations

from tileferry.cli.app import main

__all__ = ["main"]
