# shellcheck shell=bash
# A kernel package of Debian's and an initrd around its modules, in a cache outside the repository. Nothing is
# installed and nothing under /etc is touched: apt gets lists and sources of its own.
# prepare_kernel 6.1|6.12: makes vmlinuz and initrd in its kernel_folder; otherwise says why not on stdout, returns 1.

vm_cache=${XDG_CACHE_HOME:-${HOME:-/root}/.cache}/farpool-vm
vm_layout=1  # Of what is kept there; a cache of another layout is made again.
# What the guest needs to reach the host's files, and what tests load with modprobe. Not every kernel has all.
boot_modules="virtio_pci virtio_net 9pnet_virtio 9p overlay"
test_modules="nbd ublk_drv loop zram brd null_blk nvme-tcp nvmet nvmet-tcp veth dummy crc32_generic rdma_rxe ib_uverbs rdma_cm rdma_ucm"

declare -A kernel_suite=([6.1]=bookworm [6.12]=bookworm-backports)

# The first mirror of Debian itself that this machine uses.
debian_mirror() {
  # shellcheck disable=SC2016
  apt-get indextargets --format '$(ORIGIN) $(CODENAME) $(REPO_URI)' 'Created-By: Packages' 2>/dev/null |
    awk '$1 == "Debian" && $2 == "bookworm" { print $3; exit }'
}

private_apt() {  # FOLDER apt-get|apt-cache ARGUMENTS...
  local folder=$1 tool=$2
  shift 2
  "$tool" -qq -o Dir::Etc::SourceList="$folder/sources.list" -o Dir::Etc::SourceParts=/dev/null \
    -o Dir::State::Lists="$folder/lists" -o Dir::Cache="$folder/cache" -o APT::Sandbox::User=root "$@"
}

fetch_kernel() {  # VERSION FOLDER: leaves FOLDER/root, the unpacked package
  local suite=${kernel_suite[$1]} folder=$2 mirror package
  mirror=$(debian_mirror)
  [ -n "$mirror" ] || { echo "no Debian mirror among apt's sources (apt-get update?)"; return 1; }
  mkdir -p "$folder/lists/partial" "$folder/cache/archives/partial"
  echo "deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] $mirror $suite main" >"$folder/sources.list"
  private_apt "$folder" apt-get update >&2 || { echo "apt-get update of $suite failed"; return 1; }
  package=$(private_apt "$folder" apt-cache depends linux-image-amd64 | sed -n 's/^ *Depends: \(linux-image-[^<> ]*\)$/\1/p' | head -1)
  [ -n "$package" ] || { echo "$suite names no kernel package"; return 1; }
  (cd "$folder" && private_apt "$folder" apt-get download "$package" >&2) && dpkg -x "$folder/$package"_*.deb "$folder/root" ||
    { echo "$package cannot be downloaded"; return 1; }
  rm -rf "$folder/lists" "$folder/cache" "$folder/$package"_*.deb
}

# The order in which insmod takes NAMES and what they need; unknown names are left out.
module_files() {  # ROOT RELEASE NAMES...
  local root=$1 release=$2 name
  shift 2
  for name in "$@"; do
    modprobe --show-depends -d "$root" -S "$release" "$name" 2>/dev/null
  done | awk '$1 == "insmod" && !seen[$2]++ { print $2 }'
}

make_initrd() {  # FOLDER: vmlinuz and initrd from FOLDER/root
  local folder=$1 root=$1/root tree=$1/initrd.tree release file out
  # Newer packages have them in /usr/lib, where modprobe -d does not look.
  [ -e "$root/lib/modules" ] || { mkdir -p "$root/lib" && ln -s ../usr/lib/modules "$root/lib/modules"; } || return 1
  release=$(ls "$root/lib/modules")
  depmod -b "$root" "$release" || return 1
  mkdir -p "$tree"/{bin,proc,sys,dev,host,overlay,new,"lib/modules/$release"}
  cp "$(command -v busybox)" "$tree/bin/busybox"
  # shellcheck disable=SC2086
  for file in $(module_files "$root" "$release" $boot_modules $test_modules); do
    out=$tree/lib/modules/$release/$(basename "${file%.xz}")
    case $file in *.xz) xz -dc "$file" >"$out" ;; *) cp "$file" "$out" ;; esac || return 1
  done
  # shellcheck disable=SC2086
  module_files "$root" "$release" $boot_modules | sed 's|.*/||; s|\.xz$||' >"$tree/boot-modules"
  # modprobe in the guest wants to know about those that are built in, too.
  cp "$root/lib/modules/$release/"modules.{order,builtin,builtin.modinfo} "$tree/lib/modules/$release"
  depmod -b "$tree" "$release" || return 1
  cp "$root/boot/vmlinuz-$release" "$folder/vmlinuz" || return 1
  (cd "$tree" && find . | busybox cpio -o -H newc 2>/dev/null) >"$folder/initrd" || return 1
  rm -rf "$root" "$tree"
}

kernel_folder() { echo "$vm_cache/$1.$vm_layout"; }  # VERSION

prepare_kernel() {  # VERSION
  local version=$1 folder new
  folder=$(kernel_folder "$version")
  [ -e "$folder/initrd" ] && return
  mkdir -p "$vm_cache" || return 1
  # Complete or not there: made beside its place and renamed. Two that make it at once cost only time.
  new=$(mktemp -d "$vm_cache/new.XXXXXX")
  if ! fetch_kernel "$version" "$new" 2>"$vm_cache/$version.log" || ! make_initrd "$new" >>"$vm_cache/$version.log" 2>&1; then
    rm -rf "$new"
    echo "see $vm_cache/$version.log"
    return 1
  fi
  mv -T "$new" "$folder" 2>/dev/null || rm -rf "$new"
  [ -e "$folder/initrd" ]
}
