# Copyright the Fairlead authors
# SPDX-License-Identifier: Apache-2.0
"""Documents of manifests, taken apart into single objects: which there are, how they are called, which are of no use.

Objects that nothing is read from are named together with the reason, so that nobody has to guess.
"""

from __future__ import annotations

import re
from typing import Any, Dict, Iterator, List, Mapping, NamedTuple, Optional, Tuple

from ..errors import SpecError
from ..parse import NODE_NAME, Section

SERVICE, SLICE = "Service", "EndpointSlice"
# Where the API server has each kind; their lists are of the same versions.
API_VERSIONS = {SERVICE: "v1", SLICE: "discovery.k8s.io/v1"}
_API_GROUPS = {SERVICE: "", SLICE: "discovery.k8s.io"}
LIST = "List"
# What kubectl puts objects into that name none.
DEFAULT_NAMESPACE = "default"
# RFC 1123 label, as Kubernetes applies it to names of namespaces, services and ports.
DNS_LABEL = re.compile(r"(?=.{1,63}$)[a-z0-9]([-a-z0-9]*[a-z0-9])?")
_LABEL_HINT = "must be a lower-case RFC 1123 label (a-z, 0-9, '-') of at most 63 characters"


class Skipped(NamedTuple):
    """An object ("Service default/web"), or a part of one, that nothing was made of."""

    object: str
    reason: str


class KubernetesObject(NamedTuple):
    """A Service or an EndpointSlice with what its metadata say."""

    section: Section
    kind: str
    namespace: str
    name: str
    labels: Section

    @property
    def title(self) -> str:
        return f"{self.kind} {self.namespace}/{self.name}"


def read_objects(documents: Mapping[str, Any]) -> Tuple[List[KubernetesObject], List[Skipped]]:
    """``documents`` maps the path that errors name ("services[3]") to a document as parsed from YAML. Documents without
    anything in them and lists are fine. Two objects of one kind must not have the same name."""
    objects: Dict[str, KubernetesObject] = {}
    skipped: List[Skipped] = []
    for section, kind in _single(documents):
        reason = _other_kind(section, kind)
        if reason:
            skipped.append(Skipped(_loose_title(section, kind), reason))
            continue
        one = _object(section, kind)
        if one.title in objects:
            raise SpecError(section.path, f"{one.title} is also declared by {objects[one.title].section.path}")
        objects[one.title] = one
    return list(objects.values()), skipped


def dns_label(section: Section, key: str, default: str = "") -> str:
    value = section.text(key, default)
    if value != default and not DNS_LABEL.fullmatch(value):
        raise SpecError(section.at(key), f"{_LABEL_HINT}, not {value!r}")
    return value


def _single(documents: Mapping[str, Any]) -> Iterator[Tuple[Section, str]]:
    """Each object that is no list, with its kind. Lists may be in lists."""
    rest: List[Tuple[str, Any, str]] = [(path, document, "") for path, document in reversed(list(documents.items()))]
    while rest:
        path, document, kind_of_list = rest.pop()
        if document is None:
            continue
        section = Section(document, path)
        kind = section.text("kind", kind_of_list or None)
        if kind is None:
            raise SpecError(section.at("kind"), "is required: Service or EndpointSlice")
        items = _items_kind(section, kind)
        if items is None:
            yield section, kind
        else:
            rest += [(where, item, items) for where, item in reversed(list(section.entries("items", ()).items()))]


def _items_kind(section: Section, kind: str) -> Optional[str]:
    """The kind of what is in a list, "" when each item names its own; None for what is no list of ours."""
    if kind == LIST:
        return ""
    items = kind[: -len(LIST)] if kind.endswith(LIST) else ""
    return items if items in API_VERSIONS and not _other_kind(section, items) else None


def _other_kind(section: Section, kind: str) -> str:
    """Why an object is none of ours; empty when it is one."""
    # Items of typed lists, as the API server returns them, leave it out.
    version = section.text("apiVersion", API_VERSIONS.get(kind, ""))
    if kind == "Endpoints":
        return "endpoints are taken from EndpointSlices only; write one of discovery.k8s.io/v1"
    if kind not in API_VERSIONS:
        return "neither a Service nor an EndpointSlice"
    if version.rpartition("/")[0] != _API_GROUPS[kind]:
        return f"of {version}, which is another {kind} than that of {API_VERSIONS[kind]}"
    if version != API_VERSIONS[kind]:
        raise SpecError(section.at("apiVersion"), f"must be {API_VERSIONS[kind]} for {kind}, not {version!r}")
    return ""


def _loose_title(section: Section, kind: str) -> str:
    """The name of an object about which nothing else is known to be right."""
    metadata = section.data.get("metadata")
    metadata = metadata if isinstance(metadata, Mapping) else {}
    names = [str(metadata[key]) for key in ("namespace", "name") if metadata.get(key)]
    return f"{kind} {'/'.join(names) or section.path}"


def _object(section: Section, kind: str) -> KubernetesObject:
    metadata = section.section("metadata")
    namespace = dns_label(metadata, "namespace") or DEFAULT_NAMESPACE
    if kind == SERVICE:
        name = dns_label(metadata, "name")
    else:
        name = metadata.text("name", "")
        if name and not NODE_NAME.fullmatch(name):
            raise SpecError(metadata.at("name"), f"must be a lower-case RFC 1123 name, not {name!r}")
    if not name:
        raise SpecError(metadata.at("name"), f"is required: nobody makes up a name for this {kind}")
    return KubernetesObject(section, kind, namespace, name, metadata.section("labels", {}))
