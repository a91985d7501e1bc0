"""What is known of one type's ProfileRevisions: told as a whole by a list, then one by one. Pure.

Kept by `reconciler`. One event costs the same however many revisions there are: a hundred new profiles are a
hundred events on each node.
"""

from __future__ import annotations

from collections.abc import Container, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from ..crds.models import ProfileRevision


class Word(NamedTuple):
    """What an event comes to: whether anything is another than before, and which profile's word is new."""

    changed: bool
    new: frozenset[str] = frozenset()


@dataclass
class Revisions:
    """The ProfileRevisions of one type.

    Attributes:
        type: of the profiles; revisions of other types are left out.
        known: anything was told.
        by_name: those that the API has, and of those that are gone the withdrawn ones: such a profile is
            withdrawn all the same. The operator deletes its revision once no report names the profile, which
            may be just before a load of it ends here.
        present: the names of those that the API has.
    """

    type: str
    known: bool = False
    by_name: dict[str, ProfileRevision] = field(default_factory=dict[str, ProfileRevision])
    present: set[str] = field(default_factory=set[str])
    _names: dict[str, set[str]] = field(default_factory=dict[str, set[str]])

    def listed(self, revisions: Mapping[str, ProfileRevision]) -> frozenset[str]:
        """Take note of all ProfileRevisions by name; return the profiles of which one is new or another."""
        before = self.by_name
        own = {name: one for name, one in revisions.items() if one.spec.type == self.type}
        present = {one.spec.profile for one in own.values()}
        gone = {
            name: one
            for name, one in before.items()
            if one.spec.placement.withdrawn and one.spec.profile not in present
        }
        self.by_name, self.present, self.known = gone | own, set(own), True
        self._names = {}
        for name, one in self.by_name.items():
            self._names.setdefault(one.spec.profile, set()).add(name)
        return frozenset(
            one.spec.profile
            for name, one in own.items()
            if name not in before or before[name].spec != one.spec
        )

    def seen(self, name: str, revision: ProfileRevision | None) -> Word:
        """Take note of what one revision is now, None where it is gone."""
        before = self.by_name.get(name)
        if revision is None or revision.spec.type != self.type:
            return self._gone(name, before)
        profile = revision.spec.profile
        if before and before.spec.profile != profile:
            self._drop(name, before)
        self.by_name[name] = revision
        self.present.add(name)
        self._names.setdefault(profile, set()).add(name)
        replaced = self._names[profile] - self.present
        for other in replaced:  # the profile is there: what was withdrawn of it before is no matter
            self._drop(other, self.by_name[other])
        is_new = before is None or before.spec != revision.spec
        return Word(changed=is_new or bool(replaced), new=frozenset({profile} if is_new else ()))

    def forget(self, held: Container[str]) -> None:
        """Drop what the API has no more, but for profiles that are held."""
        if len(self.by_name) > len(self.present):
            for name in self.by_name.keys() - self.present:
                if self.by_name[name].spec.profile not in held:
                    self._drop(name, self.by_name[name])

    def _gone(self, name: str, before: ProfileRevision | None) -> Word:
        was_present = name in self.present
        self.present.discard(name)
        if before is None or not was_present:
            return Word(changed=False)
        others = self._names[before.spec.profile] - {name}
        if not before.spec.placement.withdrawn or others:
            self._drop(name, before)
        return Word(changed=True)

    def _drop(self, name: str, revision: ProfileRevision) -> None:
        del self.by_name[name]
        names = self._names[revision.spec.profile]
        names.discard(name)
        if not names:
            del self._names[revision.spec.profile]
