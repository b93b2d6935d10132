#!/bin/sh
# boot.sh ROOT NAME: becomes systemd as the first process of the system in ROOT, in a cgroup NAME. As root, as the first process of
# namespaces of its own: unshare --mount --pid --ipc --uts --fork --kill-child boot.sh ROOT NAME. Exit status 9: this kernel has
# no cgroups of version 2 for it.
set -e
root=$1

if [ -z "$BOOT_CGROUP" ]; then
  # A cgroup of its own, which it then sees as the topmost.
  mount --make-rprivate /
  mount -t cgroup2 cgroup2 "$root/mnt" || exit 9
  mkdir -p "$root/mnt/$2" || exit 9
  echo 0 >"$root/mnt/$2/cgroup.procs" || exit 9
  umount "$root/mnt"
  BOOT_CGROUP=own exec unshare --cgroup "$0" "$root" "$2"
fi

mount --bind "$root" "$root"
cd "$root"
mount -t proc proc proc
mount -t sysfs -o ro sysfs sys
mount -t cgroup2 cgroup2 sys/fs/cgroup
mount -t tmpfs -o mode=0755 tmpfs run
mount -t tmpfs tmpfs tmp
mount -t tmpfs -o mode=0755 tmpfs dev
mkdir dev/pts dev/shm
mount -t tmpfs tmpfs dev/shm
mount -t devpts -o newinstance,ptmxmode=0666 devpts dev/pts
ln -s pts/ptmx dev/ptmx
while read -r name major minor; do
  mknod -m 0666 "dev/$name" c "$major" "$minor"
done <<'DEVICES'
null 1 3
zero 1 5
full 1 7
random 1 8
urandom 1 9
tty 5 0
DEVICES
mkdir -p old
pivot_root . old
umount -l /old
exec env -i container=other PATH=/usr/sbin:/usr/bin:/sbin:/bin /lib/systemd/systemd --system --unit=basic.target \
  --log-target=console --show-status=0
