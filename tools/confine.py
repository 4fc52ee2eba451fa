"""Runs first inside the sandbox, as source text in front of the program: drops rights and sets limits.

This file must not import anything of Foveate (the package is not visible inside). After `confine` the process cannot
get its rights back: limits are hard, the user id is nobody's, and a seccomp filter refuses what computing does not
need: sockets other than local ones, new namespaces, mounts, tracing, kernel keys, BPF, io_uring, and memory that the
limit on private memory does not count because it is shared or belongs to a descriptor or to nobody (anonymous shared
maps, memfd, System V). Shared maps of /dev/zero cannot be told from those of files: only the address space limits
them, which has 4 GiB more.
"""

import ctypes
import errno
import os
import platform
import resource
import signal
import struct
from pathlib import Path


def confine(drop_to: int | None, memory: int, file_size: int, processes: int, open_files: int) -> None:
    """Confine this process; drop_to is the user id to take, or None to keep the own one; a limit below 0 is not set."""
    Path("/proc/self/oom_score_adj").write_text("1000")  # out of memory, this process goes first
    if drop_to is not None:
        os.setgroups([])
        os.setresgid(drop_to, drop_to, drop_to)
        os.setresuid(drop_to, drop_to, drop_to)
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG: it ends with the host, also without bubblewrap
    limits = {
        resource.RLIMIT_DATA: memory,
        resource.RLIMIT_AS: memory + 4 * 2**30,
        resource.RLIMIT_FSIZE: file_size,
        resource.RLIMIT_NPROC: processes,
        resource.RLIMIT_NOFILE: open_files,
        resource.RLIMIT_CORE: 0,
    }
    for which, wanted in limits.items():
        if wanted < 0:
            continue
        hard = resource.getrlimit(which)[1]
        value = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        resource.setrlimit(which, (value, value))
    install_filter()


def install_filter() -> None:
    """Set no_new_privs and a seccomp filter; machines other than x86-64 and arm64 go without the filter."""
    # machine: audit architecture, socket, clone, clone3, mmap, and what is refused: ptrace, mount, umount2, pivot_root,
    # swapon, reboot, init_module, keyctl, add_key, request_key, unshare, setns, perf_event_open, bpf, userfaultfd,
    # io_uring_setup, process_vm_readv, process_vm_writev, memfd_create, memfd_secret, shmget
    table = {
        "x86_64": (
            0xC000003E, 41, 56, 435, 9,
            (101, 165, 166, 155, 167, 169, 175, 250, 248, 249, 272, 308, 298, 321, 323, 425, 310, 311, 319, 447, 29),
        ),
        "aarch64": (
            0xC00000B7, 198, 220, 435, 222,
            (117, 40, 39, 41, 224, 142, 105, 219, 217, 218, 97, 268, 241, 280, 282, 425, 270, 271, 279, 447, 194),
        ),
    }  # fmt: skip
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(38, 1, 0, 0, 0):  # PR_SET_NO_NEW_PRIVS
        raise OSError(ctypes.get_errno(), "no_new_privs cannot be set")
    if platform.machine() not in table:
        return
    audit, socket, clone, clone3, mmap, refused = table[platform.machine()]
    load, equal, at_least, any_bit, mask, give = 0x20, 0x15, 0x35, 0x45, 0x54, 0x06
    namespaces = 0x7E020000  # every CLONE_NEW flag
    shared_memory = 0x21  # MAP_SHARED and MAP_ANONYMOUS
    fail, allow, kill = 0x00050000, 0x7FFF0000, 0x80000000
    program = [
        (load, 0, 0, 4), (equal, 1, 0, audit), (give, 0, 0, kill),
        (load, 0, 0, 0), (at_least, 0, 1, 0x40000000), (give, 0, 0, fail | errno.ENOSYS),
        (equal, 0, 1, clone3), (give, 0, 0, fail | errno.ENOSYS),
        (equal, 0, 4, socket), (load, 0, 0, 16), (equal, 1, 0, 1),
        (give, 0, 0, fail | errno.EOPNOTSUPP), (give, 0, 0, allow),
        (equal, 0, 4, clone), (load, 0, 0, 16), (any_bit, 0, 1, namespaces),
        (give, 0, 0, fail | errno.EPERM), (give, 0, 0, allow),
        (equal, 0, 5, mmap), (load, 0, 0, 40), (mask, 0, 0, shared_memory), (equal, 0, 1, shared_memory),
        (give, 0, 0, fail | errno.EPERM), (give, 0, 0, allow),
    ]  # fmt: skip
    for number in refused:
        program += [(equal, 0, 1, number), (give, 0, 0, fail | errno.EPERM)]
    program.append((give, 0, 0, allow))
    code = b"".join(struct.pack("=HBBI", op, yes, no, value) for op, yes, no, value in program)
    buffer = ctypes.create_string_buffer(code)
    header = ctypes.create_string_buffer(struct.pack("@HP", len(program), ctypes.addressof(buffer)))
    if libc.prctl(22, 2, header, 0, 0):  # PR_SET_SECCOMP, SECCOMP_MODE_FILTER
        raise OSError(ctypes.get_errno(), "the system call filter cannot be set")
