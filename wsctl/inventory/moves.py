"""The keys of `migrate:`.

Responsible for: how users' files are moved unless the command says otherwise. Not responsible for: moving them.
"""

from __future__ import annotations

from wsctl.inventory.kinds import Key, section
from wsctl.inventory.scalars import RATE, SWITCH, choice, duration

MIGRATE = section(
    keep=Key(
        duration("24h"), "How long the source keeps its copy, for `--rollback`; then `reconcile` deletes it.", "24h"
    ),
    bandwidth=Key(RATE, "Each copy takes at most so many bytes a second.", null="no limit"),
    compress=Key(SWITCH, "Whether files are compressed on the way: for slow networks.", "false"),
    verify=Key(
        choice(("sample", "full")), "Whether the content of a sample of the files is compared, or of all.", "sample"
    ),
)
