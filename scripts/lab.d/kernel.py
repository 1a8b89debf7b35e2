# SPDX-License-Identifier: BSD-3-Clause
"""kernel: what the lab's VM boots: a Debian kernel with soft-RoCE, and an initramfs.

Packages are downloaded with apt and unpacked with `dpkg -x` into a cache, never installed. Entries of
the cache are named by package and version, made under a lock, and appear by rename: what is there
is whole. Nothing in it changes later, so that any number of VMs may boot from it.
"""

import collections
import contextlib
import fcntl
import glob
import gzip
import hashlib
import lzma
import os
import re
import shutil
import stat
import struct
import subprocess
import tempfile

# 6.12 is in Debian 12's security archive. 6.1 has soft-RoCE too, but no PAGEMAP_SCAN (Linux 6.7).
SERIES = (("6.12", r"linux-image-6\.12\.(\d+)\+deb\d+-amd64"), ("6.1", r"linux-image-6\.1\.0-(\d+)-amd64"))
# What they depend on is found; crc32 is what soft-RoCE asks the crypto layer for by name.
BOOT_MODULES = ("9pnet_virtio", "9p", "overlay")
RDMA_MODULES = ("crc32_generic", "crc32c_generic", "libcrc32c", "ib_uverbs", "rdma_ucm", "rdma_rxe", "veth", "tcp_diag")
APPLETS = ("cat", "chroot", "hostname", "insmod", "ip", "kill", "ln", "mkdir", "mkfifo", "mount",
           "reboot", "setsid", "sh", "sleep", "stty", "umount")

Kernel = collections.namedtuple("Kernel", "series folder vmlinux initrd")


class Missing(Exception):
    """Something that the lab needs is not on this machine; the text says what to do."""


def say(text):
    print(f"lab: {text}", file=os.sys.stderr, flush=True)


def need(program, package):
    path = shutil.which(program)
    if path is None:
        raise Missing(f"{program} is missing: install {package} (scripts/deps does)")
    return path


class Cache:
    """A folder whose entries are made once, by whoever comes first."""

    def __init__(self):
        base = os.environ.get("XDG_CACHE_HOME") or os.path.join(os.path.expanduser("~"), ".cache")
        self.folder = os.path.join(base, "sluice", "lab")

    @contextlib.contextmanager
    def locked(self):
        os.makedirs(self.folder, exist_ok=True)
        with open(os.path.join(self.folder, "lock"), "w", encoding="ascii") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield

    def entry(self, name, make):
        """The path of entry @name, made by make(path) if it is not there; call it locked."""
        path = os.path.join(self.folder, name)
        if not os.path.exists(path):
            for stale in glob.glob(os.path.join(self.folder, "new-*")):
                shutil.rmtree(stale)
            folder = tempfile.mkdtemp(prefix="new-", dir=self.folder)
            os.chmod(folder, 0o755)  # apt's own user fetches into it
            try:
                make(os.path.join(folder, "made"))
                os.rename(os.path.join(folder, "made"), path)
            finally:
                shutil.rmtree(folder, ignore_errors=True)
        return path


# ---- packages ----

def apt(*arguments, cwd=None):
    """The output of an apt command, or None when it failed."""
    done = subprocess.run(arguments, cwd=cwd, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                          stderr=subprocess.PIPE, universal_newlines=True, check=False)
    if done.returncode != 0:
        say(f"{' '.join(arguments)}: {done.stderr.strip()}")
        return None
    return done.stdout


def versions(names):
    """The newest version of each package that can be had, by name."""
    found = {}
    for line in (apt("apt-cache", "madison", *names) or "").splitlines():
        name, version = (part.strip() for part in line.split("|")[:2])
        found.setdefault(name, version)
    return found


def choose_kernel():
    """(series, package, version) of the best kernel that apt knows; None when it knows none."""
    names = (apt("apt-cache", "pkgnames", "linux-image-6.1") or "").split()
    for series, pattern in SERIES:
        fitting = [name for name in names if re.fullmatch(pattern, name)]
        known = versions(fitting) if fitting else {}
        if known:
            name = max(known, key=lambda name: int(re.fullmatch(pattern, name).group(1)))
            return series, name, known[name]
    return None


def unpack(package, version, path):
    """Download a package and unpack it into @path."""
    folder = os.path.dirname(path)
    say(f"downloading {package} {version}")
    if apt("apt-get", "-q", "-o", "Acquire::Retries=3", "download", f"{package}={version}",
           cwd=folder) is None:
        raise Missing(f"{package} {version} cannot be downloaded; are the package lists new "
                      "(apt-get update), and is the archive within reach?")
    files = glob.glob(os.path.join(folder, package + "_*.deb"))
    subprocess.run(["dpkg", "-x", files[0], path], check=True)


# ---- the kernel ----

def uncompressed(image, path):
    """Write the ELF kernel that is packed in a bzImage: QEMU starts it at once (PVH), without the
    decompression that takes half of the time under emulation. See Documentation/arch/x86/boot.rst.
    """
    with open(image, "rb") as file:
        data = file.read()
    setup_sectors = data[0x1f1] or 4
    offset, length = struct.unpack_from("<II", data, 0x248)
    start = (setup_sectors + 1) * 512 + offset
    packed = data[start:start + length]
    if packed.startswith(b"\xfd7zXZ\0"):
        elf = lzma.LZMADecompressor().decompress(packed)
    elif packed.startswith(b"\x1f\x8b"):
        elf = gzip.zlib.decompressobj(31).decompress(packed)
    elif packed.startswith(b"\x28\xb5\x2f\xfd"):  # its last four bytes are the length
        elf = subprocess.run([need("zstd", "zstd"), "-dc"], input=packed[:-4],
                             stdout=subprocess.PIPE, check=True).stdout
    else:
        raise Missing(f"{os.path.basename(image)} is packed in a way that the lab does not know")
    if not elf.startswith(b"\x7fELF"):
        raise Missing(f"{os.path.basename(image)} holds no ELF kernel")
    with open(path, "wb") as file:
        file.write(elf)


def make_kernel(package, version, path):
    unpack(package, version, path)
    image, = glob.glob(os.path.join(path, "boot", "vmlinuz-*"))
    uncompressed(image, os.path.join(path, "vmlinux"))


# ---- the initramfs ----

def module_name(path):
    return os.path.basename(path).split(".ko")[0].replace("-", "_")


def without_signature(module):
    """To verify one takes longer than all else of loading it. See scripts/sign-file.c of Linux."""
    end = b"~Module signature appended~\n"
    if not module.endswith(end):
        return module
    length, = struct.unpack_from(">I", module, len(module) - len(end) - 4)
    return module[:-(length + 12 + len(end))]


class Modules:
    """The modules of an unpacked kernel, by name."""

    def __init__(self, folder):
        self.paths = {module_name(path): path
                      for path in glob.glob(os.path.join(folder, "lib/modules/*/kernel/**/*.ko*"),
                                            recursive=True)}
        self.contents = {}  # in the order in which they can be loaded

    def add(self, name):
        """Read a module after those that it depends on; one that is built in needs nothing."""
        if name in self.contents or name not in self.paths:
            return
        with open(self.paths[name], "rb") as file:
            data = file.read()
        if self.paths[name].endswith(".xz"):
            data = lzma.decompress(data)
        found = re.search(rb"\0depends=([^\0]*)\0", data)
        for other in found.group(1).decode().split(",") if found else ():
            self.add(other.replace("-", "_"))
        self.contents[name] = without_signature(data)


class Archive:
    """A cpio archive as the kernel unpacks it ("newc"): Documentation/driver-api/early-userspace."""

    def __init__(self, file):
        self.file, self.count = file, 0

    def add(self, name, mode, data=b""):
        self.count += 1
        name = name.encode() + b"\0"
        fields = (self.count, mode, 0, 0, 1, 0, len(data), 0, 0, 0, 0, len(name), 0)
        head = b"070701" + b"".join(b"%08x" % field for field in fields) + name
        for part in (head, data):
            self.file.write(part + b"\0" * (-len(part) % 4))

    def end(self):
        self.add("TRAILER!!!", 0)


def make_initrd(kernel, busybox, init, path):
    modules = Modules(kernel)
    for name in BOOT_MODULES:
        modules.add(name)
    boot = list(modules.contents)
    for name in RDMA_MODULES:
        modules.add(name)
    with open(path, "wb") as file:
        archive = Archive(file)
        for folder in ("bin", "dev", "mod"):
            archive.add(folder, stat.S_IFDIR | 0o755)
        archive.add("dev/console", stat.S_IFREG | 0o600)
        with open(busybox, "rb") as program:
            archive.add("bin/busybox", stat.S_IFREG | 0o755, program.read())
        for name in APPLETS:
            archive.add("bin/" + name, stat.S_IFLNK | 0o777, b"busybox")
        archive.add("init", stat.S_IFREG | 0o755, init)
        for name, data in modules.contents.items():
            archive.add(f"mod/{name}.ko", stat.S_IFREG | 0o644, data)
        for name, list_ in (("boot", boot), ("rdma", [name for name in modules.contents
                                                      if name not in boot])):
            archive.add("mod/" + name, stat.S_IFREG | 0o644, "\n".join(list_).encode() + b"\n")
        archive.end()


# ---- all of it ----

def cached_kernel(cache):
    """(series, folder) of a kernel of the best series, unpacked earlier; or None."""
    folders = [path for path in glob.glob(os.path.join(cache.folder, "linux-image-*"))
               if re.fullmatch(SERIES[0][1], os.path.basename(path).split("_")[0])]
    return (SERIES[0][0], max(folders, key=os.path.getmtime)) if folders else None


def find_kernel(cache):
    found = cached_kernel(cache)
    if found:
        return found
    chosen = choose_kernel()
    if chosen is None:
        raise Missing("apt knows no kernel package of Linux 6.12 or 6.1 for amd64: bring the package "
                      "lists up to date (apt-get update), on Debian 12 with its security archive")
    series, package, version = chosen
    if series != SERIES[0][0]:
        say(f"no Linux {SERIES[0][0]} in the archives that apt knows; {package} it is: "
            "without PAGEMAP_SCAN")
    folder = cache.entry(f"{package}_{version}",
                         lambda path: make_kernel(package, version, path))
    return series, folder


def busybox_of(cache):
    found = glob.glob(os.path.join(cache.folder, "busybox-static_*"))
    if not found:
        version = versions(["busybox-static"]).get("busybox-static")
        if version is None:
            raise Missing("apt knows no package busybox-static: apt-get update")
        found = [cache.entry(f"busybox-static_{version}",
                             lambda path: unpack("busybox-static", version, path))]
    return os.path.join(found[0], "bin", "busybox")


def prepare(init_path):
    """The kernel and initramfs to boot with @init_path as its init; raises Missing."""
    for program, package in (("apt-get", "apt"), ("dpkg", "dpkg")):
        need(program, package)
    with open(init_path, "rb") as file:
        init = file.read()
    cache = Cache()
    with cache.locked():
        series, folder = find_kernel(cache)
        busybox = busybox_of(cache)
        parts = (folder, busybox, BOOT_MODULES, RDMA_MODULES, APPLETS)
        key = hashlib.sha256(repr(parts).encode() + init).hexdigest()[:16]
        initrd = cache.entry(f"initrd-{key}.cpio",
                             lambda path: make_initrd(folder, busybox, init, path))
    return Kernel(series, folder, os.path.join(folder, "vmlinux"), initrd)
