# bash completion for farpool(1). A test compares the flags here with what each command's --help lists.

_farpool() {
  local cur=${COMP_WORDS[COMP_CWORD]} prev=${COMP_WORDS[COMP_CWORD-1]} command=${COMP_WORDS[1]} flags word
  COMPREPLY=()
  if [ "$COMP_CWORD" -eq 1 ]; then
    mapfile -t COMPREPLY < <(compgen -W "run donor status swap doctor bench version --help" -- "$cur")
    return
  fi
  if [ "$command" = run ]; then
    # Past -- it is the program's business.
    for word in "${COMP_WORDS[@]:2:COMP_CWORD-2}"; do
      if [ "$word" = -- ]; then
        mapfile -t COMPREPLY < <(compgen -c -f -- "$cur")
        return
      fi
    done
  fi
  case $prev in
    --config | --unix | --report | --report-json | --trace | --html)
      mapfile -t COMPREPLY < <(compgen -f -- "$cur")
      return
      ;;
    --json)
      if [ "$command" = bench ]; then
        mapfile -t COMPREPLY < <(compgen -f -- "$cur")
        return
      fi
      ;;
    --placement)
      mapfile -t COMPREPLY < <(compgen -W "slabs even weighted" -- "$cur")
      return
      ;;
    --compress)
      mapfile -t COMPREPLY < <(compgen -W "auto on off" -- "$cur")
      return
      ;;
    --only)
      mapfile -t COMPREPLY < <(compgen -W "kmeans quicksort linpack mbw stream nn redis memcached sqlite graph" -- "$cur")
      return
      ;;
    --configs)
      mapfile -t COMPREPLY < <(compgen -W "unlimited farpool-shm farpool-tcp farpool-tcp-2 zram disk" -- "$cur")
      return
      ;;
    --handoff)
      mapfile -t COMPREPLY < <(compgen -W "auto direct monitor" -- "$cur")
      return
      ;;
    --driver)
      mapfile -t COMPREPLY < <(compgen -W "auto ublk nbd" -- "$cur")
      return
      ;;
    --via)
      mapfile -t COMPREPLY < <(compgen -W "preload swap" -- "$cur")
      return
      ;;
    --local | --size | --shares | --near | --pool | --threshold | --listen | --rdma | --memory | --rack | --slab | --quota)
      return
      ;;
  esac
  case $command in
    run) flags="--local --pool --placement --compress --handoff --via --threshold --near --report --report-json --trace --config --help" ;;
    donor) flags="--listen --rdma --unix --memory --rack --slab --quota --allow-anyone --config --help" ;;
    status) flags="--pool --json --config --help" ;;
    swap) flags="--size --driver --priority --pool --json --config --help" ;;
    doctor) flags="--pool --json --config --help" ;;
    bench) flags="--json --html --quick --only --configs --shares --smoke --pool --config --help" ;;
    version) flags="--json --config --help" ;;
    *) flags="" ;;
  esac
  if [ "$command" = swap ] && [[ $cur != -* ]]; then
    flags="create on off list delete"
    [ "$COMP_CWORD" -gt 2 ] && flags=$(compgen -G '/dev/nbd*'; compgen -G '/dev/ublkb*')
  fi
  [ "$command" = bench ] && [[ $cur != -* ]] && flags="faults scan apps limits scale swap"
  mapfile -t COMPREPLY < <(compgen -W "$flags" -- "$cur")
}

complete -o filenames -F _farpool farpool
