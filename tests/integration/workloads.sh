# shellcheck shell=bash
# What programs of the system are given to do; the same bytes on every machine. Each function writes FILE, readable
# to all.

write_lines() {  # MIB FILE: random lines of 50 bytes
  openssl enc -aes-128-ctr -nosalt -K 00 -iv 00 -in /dev/zero 2>/dev/null | base64 -w 49 |
    head -c $(($1 * 1024 * 1024 / 50 * 50)) >"$2"
  chmod a+r "$2"
}

write_dict_py() {  # STRINGS FILE: a large dictionary, and what is in it by way of a sorted list
  { echo "strings = $1" && cat <<'PY'; } >"$2"
import hashlib
d = {}
for i in range(strings):
    d["key%d" % (i * 7919 % 2000003)] = "value%d" % i
digest = hashlib.sha256()
for key in sorted(d)[::3]:
    digest.update(d[key].encode())
print(len(d), digest.hexdigest())
PY
  chmod a+r "$2"
}

write_joins_sql() {  # ORDERS FILE: tables, indices and joins, all in memory
  sed "s/ORDERS/$1/" >"$2" <<'SQL'
.bail on
create table orders(id integer primary key, customer integer, amount integer, note text);
create table customers(id integer primary key, name text);
with recursive n(i) as (select 1 union all select i + 1 from n where i < 20000)
  insert into customers select i, 'customer ' || (i * 7919 % 20011) from n;
with recursive n(i) as (select 1 union all select i + 1 from n where i < ORDERS)
  insert into orders select i, 1 + i * 104729 % 20000, i * 31337 % 1000, 'note ' || (i * 15485863 % 1000003) || ' padded to be longer' from n;
create index by_customer on orders(customer, amount);
create index by_note on orders(note);
select count(*), sum(amount), min(note), max(note) from orders;
select c.name, count(*), sum(o.amount) s from customers c join orders o on o.customer = c.id group by c.id order by s desc, c.id limit 20;
select count(*) from orders a join orders b on b.note = a.note and b.id > a.id;
select sum(length(note)) from orders where note between 'note 3' and 'note 5';
SQL
  chmod a+r "$2"
}

write_large_c() {  # FILE: many functions and a long table
  python3 - >"$1" <<'PY'
print("static unsigned v(unsigned x) { return x * 2654435761u; }")
for i in range(1500):
    print(f"unsigned f{i}(unsigned *p, unsigned n) {{ unsigned s = {i};"
          f" for (unsigned i = 0; i < n; i++) {{ s += v(p[i] ^ {i * 7919 % 65536});"
          f" if (s % {i % 13 + 3} == 1) p[i] = s; }} return s; }}")
print("unsigned (*table[])(unsigned *, unsigned) = {")
print(", ".join(f"f{i}" for i in range(1500)))
print("};\nconst unsigned words[] = {")
for i in range(500000):
    print(f"{i * 2654435761 % 2**32}u,", end="\n" if i % 16 == 0 else "")
print("};")
PY
  chmod a+r "$1"
}
