# shellcheck shell=bash
# The programs of suite_test.sh. For each NAME: run_NAME is what runs, alone in an empty folder, with $input as
# what prepare_NAME left there before (ordinarily, once), $programs as the test programs of this folder and $apps as those of
# farpool bench apps.
# What it prints must not depend on time or place; mask_NAME is a sed script for what cannot be helped.
# Sourced by suite_test.sh and by each run.

# shellcheck source=workloads.sh
. "$(dirname "${BASH_SOURCE[0]}")/workloads.sh"

# --- programs of this folder
run_pagewalker() { exec "$programs/pagewalker" 80; }
run_quicksort() { exec "$apps/quicksort" 12; }
run_kmeans() { exec "$apps/kmeans" 1024 8 3; }
run_stream() { exec "$apps/stream" 48 4; }
run_churn() { exec "$programs/churn" 64 384 1024; }
run_linpack() { exec "$apps/linpack" 2500; }

# --- the programs of this folder on allocators of their own
run_jemalloc() { LD_PRELOAD=libjemalloc.so.2:$LD_PRELOAD exec "$programs/churn" 16 192 1024; }
run_tcmalloc() { LD_PRELOAD=libtcmalloc_minimal.so.4:$LD_PRELOAD exec "$programs/churn" 16 192 1024; }
run_mimalloc() { LD_PRELOAD=libmimalloc.so.2.0:$LD_PRELOAD exec "$programs/churn" 16 192 1024; }

# --- tools
prepare_sort() { write_lines 48 "$input/lines"; }
run_sort() { exec sort -S 1G --parallel=2 "$input/lines"; }

mask_mbw='s/(Elapsed|Copy): [0-9.]+/\1/g' # Times and rates.
run_mbw() { exec mbw -n 3 48; }

prepare_gzip() { write_lines 6 "$input/lines"; }
run_gzip() { gzip -9 -c "$input/lines" | tee lines.gz | gzip -dc | sha256sum && sha256sum lines.gz; }
prepare_xz() { write_lines 2 "$input/lines"; }
run_xz() { xz -T2 -0 --block-size=512KiB -c "$input/lines" | tee lines.xz | xz -T2 -dc | sha256sum && sha256sum lines.xz; }
prepare_zstd() { write_lines 24 "$input/lines"; }
run_zstd() { zstd -q -T2 -3 -c "$input/lines" | tee lines.zst | zstd -dc | sha256sum && sha256sum lines.zst; }

run_perl() {
  exec perl -MDigest::SHA=sha1_hex -e '
    my (%h, @a);
    for my $i (1 .. 40000) { my $k = ($i * 7919) % 1000003; $h{"key $k"} = { n => $i, s => "value " x ($i % 7) }; }
    push @a, sort { $h{$a}{n} <=> $h{$b}{n} } keys %h;
    my $d = "";
    for my $i (0 .. $#a) { $d = sha1_hex($d . $a[$i] . $h{$a[$i]}{s}) if $i % 17 == 0; }
    my $pid = open(my $pipe, "-|") // die;
    if (!$pid) { print scalar(keys %h), " in the child\n"; exit 3; }
    print <$pipe>; close $pipe; print $? >> 8, " from the child\n";
    print scalar(@a), " $d\n"; warn "perl is done\n"; exit 5;'
}
run_ruby() {
  exec ruby -e '
    require "digest"; require "set"
    h = {}; 100_000.times { |i| h["key #{i * 7919 % 1_000_003}"] = [i, "value " * (i % 7)] }
    s = h.keys.sort; GC.start; GC.compact if GC.respond_to?(:compact)
    r, w = IO.pipe
    pid = fork { r.close; w.puts Digest::SHA256.hexdigest(s.map { |k| h[k][1] }.join); w.close; exit!(3) }
    w.close; puts r.read; Process.wait(pid); puts $?.exitstatus
    t = 8.times.map { |i| Thread.new { (1..20_000).map { |n| n.to_s * 3 }.sort.last } }
    puts t.map(&:value).inspect, Set.new(s).size, `echo a child`; $stderr.puts "ruby is done"'
}

prepare_sqlite3() { write_joins_sql 1200000 "$input/joins.sql"; }
run_sqlite3() { exec sqlite3 -init "$input/joins.sql" :memory: .exit; }

# --- python3
prepare_python_dict() { write_dict_py 1000000 "$input/dict.py"; }
run_python_dict() { PYTHONHASHSEED=1 exec /usr/bin/python3 "$input/dict.py"; }
run_python_numpy() {
  OPENBLAS_NUM_THREADS=2 exec /usr/bin/python3 - <<'PY'
import hashlib, numpy as np
r = np.random.default_rng(7)
a = r.integers(0, 1 << 40, 4_000_000); s = np.sort(a); print(hashlib.sha256(s.tobytes()).hexdigest())
print(np.unique(a // 1000).size, int(a.cumsum()[-1]))
m = r.random((1400, 1400)); q, t = np.linalg.qr(m); print(np.abs(q @ t - m).max() < 1e-9)
f = np.fft.rfft(r.random(1 << 21)); print(np.abs(np.fft.irfft(f)).max() <= 1 + 1e-9)
a.tofile("a.bin"); print((np.memmap("a.bin", dtype=a.dtype) == np.fromfile("a.bin", dtype=a.dtype)).all())
PY
}
run_python_multi() {
  exec /usr/bin/python3 - <<'PY'
import asyncio, hashlib, multiprocessing as mp, os, subprocess, sys, threading
data = [hashlib.md5(b"%d" % i).hexdigest() for i in range(300_000)]
def digest(part):
    first, last = part
    return hashlib.sha256("".join(data[first:last]).encode()).hexdigest()
def parts(n): return [(i * len(data) // n, (i + 1) * len(data) // n) for i in range(n)]
for method in ("fork", "spawn", "forkserver"):
    if method != "fork":
        continue  # The others import this file anew, and there is none.
    with mp.get_context(method).Pool(3) as pool:
        print(method, pool.map(digest, parts(12)))
with mp.get_context("fork").Manager() as manager:
    shared = manager.dict(); shared["a"] = data[:1000]; print(len(shared["a"]))
big = "".join(data)
print(subprocess.run(["sha256sum"], input=big.encode(), capture_output=True).stdout.decode().split()[0])
env = dict(os.environ, LARGE=big[:100_000]); print(subprocess.check_output(["sh", "-c", "echo ${#LARGE}"], env=env).decode())
print(os.system("exit 3") >> 8, os.popen("echo popen").read())
async def echo(r, w):
    w.write(await r.read()); w.close()
async def client(path, n):
    r, w = await asyncio.open_unix_connection(path)
    w.write(big[n * 1000:n * 1000 + 200_000].encode()); w.write_eof()
    return hashlib.sha256(await r.read()).hexdigest()
async def main():
    server = await asyncio.start_unix_server(echo, "s.sock", limit=1 << 20)
    print(await asyncio.gather(*(client("s.sock", n) for n in range(40))))
    p = await asyncio.create_subprocess_exec("wc", "-c", stdin=-1, stdout=-1); print((await p.communicate(big.encode()))[0].decode())
asyncio.run(main())
sum_ = [0] * 8
def work(i): sum_[i] = sum(int(x, 16) for x in data[i::8])
threads = [threading.Thread(target=work, args=(i,)) for i in range(8)]
[t.start() for t in threads]; [t.join() for t in threads]; print(sum(sum_))
print("python3 is done", file=sys.stderr); sys.exit(4)
PY
}

# --- building and keeping source
run_make() {
  mkdir objects
  {
    echo 'sources := $(wildcard $(source)/src/wire/*.cc $(source)/src/base/*.cc)'
    echo 'all: all.sum'
    echo 'all.sum: $(patsubst $(source)/src/%.cc,objects/%.o,$(sources)); sha256sum $(sort $^) > $@; cat $@'
    echo 'objects/%.o: $(source)/src/%.cc'
    printf '\t@mkdir -p $(@D)\n\t@g++ -std=c++20 -O2 -frandom-seed=1 -I$(source)/include -I$(source)/src -c $< -o $@\n'
  } >Makefile
  exec make -s -j2 source="$source"
}
prepare_git() {
  python3 - <<'PY' >"$input/history"
import hashlib
def text(i, n): return "".join(hashlib.sha1(b"%d %d" % (i, k)).hexdigest() + " line\n" for k in range(n)).encode()
for c in range(120):
    m = b"commit %d" % c
    print(f"commit refs/heads/main\ncommitter A <a@b.c> {1700000000 + c * 60} +0000\ndata {len(m)}\n{m.decode()}")
    for f in range(6):
        t = text(c * 7 + f if f < 2 else c // 40 + f * 1000, 250) + text(c, 3)
        print(f"M 100644 inline d{(c + f) % 9}/f{(c * f) % 60}\ndata {len(t)}\n{t.decode()}")
PY
  git init -q -b main "$input/repository" && git -C "$input/repository" fast-import --quiet <"$input/history"
}
run_git() {
  export GIT_CONFIG_GLOBAL=/dev/null GIT_CONFIG_SYSTEM=/dev/null
  git -c safe.directory='*' clone -q --no-hardlinks --no-local "$input/repository" clone && cd clone || return
  git config pack.threads 2
  git fsck --full && git repack -q -a -d -f --depth=20 --window=40 && git gc -q && git fsck --full &&
    git log --stat --format='%H %s' | sha256sum && git count-objects -v | grep -E '^(count|in-pack|garbage)' &&
    git rev-parse HEAD && git status --short | wc -l
}

# --- programs that generate code
run_node() {
  exec node -e '
    const { Worker, isMainThread } = require("worker_threads"), crypto = require("crypto"), cp = require("child_process");
    const m = new Map(); for (let i = 0; i < 300000; ++i) m.set("key " + i * 7919 % 1000003, { i, s: "value".repeat(i % 5) });
    const keys = [...m.keys()].sort(); const json = JSON.stringify(keys.map(k => m.get(k)));
    console.log(keys.length, crypto.createHash("sha256").update(json).digest("hex"));
    const b = Buffer.alloc(32 << 20); for (let i = 0; i < b.length; i += 4) b.writeUInt32LE(Math.imul(i, 2654435761) >>> 0, i);
    console.log(crypto.createHash("sha256").update(b).digest("hex"), JSON.parse(json).length);
    console.log(require("zlib").gunzipSync(require("zlib").gzipSync(json)).length);
    console.log(cp.execSync("echo from a child").toString());
    const code = "const {parentPort}=require(`worker_threads`);let s=0;const a=[];for(let i=0;i<200000;i++){a.push({i});s+=a[i>>1].i}parentPort.postMessage(s)";
    Promise.all([1, 2, 3].map(() => new Promise(r => new Worker(code, { eval: true }).on("message", r)))).then(s => {
      console.log(s); console.error("node is done"); process.exitCode = 6; });'
}
prepare_java() {
  cat >"$input/Main.java" <<'JAVA'
import java.util.*;
import java.util.concurrent.*;
public class Main {
  public static void main(String[] args) throws Exception {
    Map<String, long[]> map = new HashMap<>();
    for (int i = 0; i < 300000; ++i) map.put("key " + (i * 7919L % 1000003), new long[] {i, i * 31L, i % 7});
    List<String> keys = new ArrayList<>(map.keySet());
    Collections.sort(keys);
    long digest = 0;
    for (String key : keys) digest = digest * 31 + key.hashCode() + map.get(key)[1];
    System.out.println(keys.size() + " " + digest);
    ExecutorService pool = Executors.newFixedThreadPool(8);
    List<Future<Long>> sums = new ArrayList<>();
    for (int t = 0; t < 32; ++t) {
      final int from = t;
      sums.add(pool.submit(() -> {
        long sum = 0;
        StringBuilder text = new StringBuilder();
        for (int i = from; i < keys.size(); i += 32) { sum += map.get(keys.get(i))[0]; text.append(keys.get(i)); }
        return sum + text.toString().hashCode() % 1000;
      }));
    }
    long sum = 0;
    for (Future<Long> f : sums) sum += f.get();
    pool.shutdown();
    int[] big = new int[16 << 20];
    for (int i = 0; i < big.length; ++i) big[i] = i * 0x9e3779b9;
    Arrays.parallelSort(big);
    for (int i = 1; i < big.length; ++i) if (big[i - 1] > big[i]) throw new Error("order at " + i);
    try { Object o = null; o.hashCode(); } catch (NullPointerException e) { System.out.println("null"); }
    try { deep(0); } catch (StackOverflowError e) { System.out.println("stack"); }
    Process p = new ProcessBuilder("echo", "from a child").start();
    System.out.println(new String(p.getInputStream().readAllBytes()) + sum);
    System.err.println("java is done");
    System.exit(7);
  }
  static int deep(int n) { return deep(n + 1) + 1; }
}
JAVA
  javac -d "$input" "$input/Main.java" && chmod -R a+rX "$input"
}
prepare_java_serial() { prepare_java; }
prepare_java_zgc() { prepare_java; }
run_java() { exec java -XX:+UseG1GC -Xmx300m -cp "$input" Main; }
run_java_serial() { exec java -XX:+UseSerialGC -Xmx300m -cp "$input" Main; }
run_java_zgc() { exec java -XX:+UseZGC -Xmx300m -cp "$input" Main; }

# --- servers, each with its clients in the same run
run_redis() {
  redis-server --port 0 --unixsocket "$PWD/r.sock" --save '' --dir "$PWD" --enable-debug-command yes --daemonize no >log 2>&1 &
  local server=$! cli="redis-cli -s r.sock"
  until [ "$($cli ping 2>/dev/null)" = PONG ]; do sleep 0.1; done
  python3 - <<'PY' | $cli --pipe | grep -v '^All data'
import sys
out = sys.stdout
def command(*words): out.write("*%d\r\n" % len(words) + "".join("$%d\r\n%s\r\n" % (len(w), w) for w in words))
for i in range(150000):
    command("SET", "key:%d" % i, ("value %d " % (i * 7919)) * (i % 12 + 1))
    if i % 10 == 0: command("HSET", "hash:%d" % (i % 500), "field%d" % i, str(i))
    if i % 10 == 5: command("ZADD", "sorted:%d" % (i % 50), str(i * 31 % 1000), "m%d" % i)
    if i % 20 == 7: command("RPUSH", "list:%d" % (i % 20), str(i))
PY
  $cli debug digest
  $cli bgsave >/dev/null
  redis-benchmark -s r.sock -q -t set,get,incr,lpush,lrange_100 -n 20000 -d 512 >/dev/null
  until $cli info persistence | grep -q '^rdb_bgsave_in_progress:0'; do sleep 0.1; done
  $cli info persistence | grep -E '^(rdb_last_bgsave_status)' | tr -d '\r'
  $cli config set appendonly yes
  until $cli info persistence | grep -q '^aof_rewrite_in_progress:0'; do sleep 0.1; done
  $cli bgrewriteaof >/dev/null
  $cli del key:1 key:2 hash:5
  until $cli info persistence | grep -q '^aof_rewrite_in_progress:0' && $cli info persistence | grep -q '^aof_rewrite_scheduled:0'; do sleep 0.1; done
  $cli info persistence | grep -E '^(aof_last_bgrewrite_status)' | tr -d '\r'
  $cli debug digest
  $cli debug loadaof
  $cli debug digest
  $cli save
  $cli debug reload
  $cli debug digest
  $cli dbsize
  $cli shutdown nosave
  wait $server
}
run_memcached() {
  memcached -s "$PWD/m.sock" -m 256 -t 4 2>&1 &
  local server=$!
  until [ -S m.sock ]; do sleep 0.1; done
  python3 - <<'PY'
import hashlib, multiprocessing, socket
def client(n):
    s = socket.socket(socket.AF_UNIX); s.connect("m.sock"); f = s.makefile("rwb", 1 << 16)
    value = lambda i: (b"%d " % (i * 7919)) * (1 + i % 150)
    ids = range(n, 60000, 4)
    for i in ids: f.write(b"set k%d 0 0 %d noreply\r\n%s\r\n" % (i, len(value(i)), value(i)))
    h = hashlib.sha256()
    for i in ids:
        f.write(b"get k%d\r\n" % i); f.flush()
        head = f.readline()
        if not head.startswith(b"VALUE"): h.update(b"miss %d" % i); continue
        data = f.read(int(head.split()[3]) + 2)[:-2]; f.readline()
        assert data == value(i), i
        h.update(data)
    return h.hexdigest()
# Not threads: handing Python's lock around would take a third more of the processors' time, now more, now less.
with multiprocessing.get_context("fork").Pool(4) as clients: print(clients.map(client, range(4), 1))
PY
  kill $server
  wait $server
}
run_postgres() {
  local bin
  bin=$(echo /usr/lib/postgresql/*/bin)
  export PGHOST=$PWD PGUSER=postgres PGDATABASE=postgres PGDATA=$PWD/data
  "$bin/initdb" -U postgres --no-sync -A trust --locale=C -E UTF8 >initdb.log || { cat initdb.log; return 1; }
  "$bin/postgres" -c listen_addresses= -c unix_socket_directories="$PWD" -c shared_buffers=32MB -c work_mem=128MB \
    -c maintenance_work_mem=64MB -c fsync=off -c jit=off >log 2>&1 &
  local server=$!
  until "$bin/pg_isready" -q; do sleep 0.1; done
  "$bin/pgbench" -q -i -s 3 >init.log 2>&1
  "$bin/pgbench" -n -c 4 -j 2 -t 150 >bench.log 2>&1 || cat bench.log
  "$bin/psql" -AtX <<'SQL'
select (select sum(abalance) from pgbench_accounts) = (select sum(delta) from pgbench_history);
select count(*) from pgbench_history;
select sum(h), count(*) from (select hashtext(a.aid::text || b.aid) as h from pgbench_accounts a join pgbench_accounts b
  on a.aid = 300001 - b.aid order by a.aid * 7919 % 1000003) s;
select md5(string_agg(aid::text, ',' order by aid * 7919 % 1000003)) from pgbench_accounts;
create index on pgbench_accounts (filler, aid);
select 1 / 0;
SQL
  kill -INT $server
  wait $server
}
# Times, process and connection numbers.
mask_nginx='s/^[0-9/]+ [0-9:]+ (\[[a-z]+\]) [0-9#]+: \*[0-9]+/\1/'
prepare_nginx() { write_lines 6 "$input/lines"; }
run_nginx() {
  head -c 5000000 "$input/lines" >big.txt
  cat >nginx.conf <<CONF
daemon off; worker_processes 2; pid $PWD/pid; error_log stderr error;
events { worker_connections 256; }
http {
  access_log off; gzip on; gzip_types text/plain; gzip_comp_level 6; gzip_buffers 64 64k; output_buffers 16 512k; sendfile off;
  client_body_temp_path $PWD/t1; proxy_temp_path $PWD/t2; fastcgi_temp_path $PWD/t3; uwsgi_temp_path $PWD/t4; scgi_temp_path $PWD/t5;
  types { text/plain txt; }
  server { listen unix:$PWD/n.sock; root $PWD; }
}
CONF
  nginx -p "$PWD" -c "$PWD/nginx.conf" -e stderr &
  local server=$!
  until [ -S n.sock ]; do sleep 0.1; done
  python3 - <<'PY'
import gzip, hashlib, http.client, socket, threading
class Connection(http.client.HTTPConnection):
    def connect(self): self.sock = socket.socket(socket.AF_UNIX); self.sock.connect("n.sock")
def client(n, out):
    c = Connection("localhost"); got = []
    for k in range(3):
        c.request("GET", "/big.txt" if k < 2 else "/none", headers={"Accept-Encoding": "gzip"} if k == 1 else {})
        r = c.getresponse(); b = r.read()
        if r.getheader("Content-Encoding") == "gzip": b = gzip.decompress(b)
        got.append((r.status, len(b), hashlib.sha256(b).hexdigest()))
    out[n] = got
out = [None] * 6
threads = [threading.Thread(target=client, args=(n, out)) for n in range(6)]
[t.start() for t in threads]; [t.join() for t in threads]
for o in out: print(o)
PY
  kill -QUIT $server
  wait $server
}
