"""Resumable, checksummed stores of rows on disk, in chunks."""

from nnef_dists.storage._creation import create_store as create_store
from nnef_dists.storage._creation import exclusively as exclusively
from nnef_dists.storage._record import Environment as Environment
from nnef_dists.storage._record import KeyData as KeyData
from nnef_dists.storage._record import describe_environment as describe_environment
from nnef_dists.storage._record import differences as differences
from nnef_dists.storage._record import join_lines as join_lines
from nnef_dists.storage._record import pack_key as pack_key
from nnef_dists.storage._record import unpack_key as unpack_key
from nnef_dists.storage._record import visible_cpus as visible_cpus
from nnef_dists.storage._store import Spec as Spec
from nnef_dists.storage._store import Store as Store
from nnef_dists.storage._store import StoreError as StoreError
from nnef_dists.storage._store import StoreKind as StoreKind
from nnef_dists.storage._stored_array import StoredArray as StoredArray

__all__: list[str] = []
