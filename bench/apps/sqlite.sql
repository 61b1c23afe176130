-- Two tables and their indices, all in memory, joined and summed up. Rows are made of numbers of 48 bits that
-- do not repeat, so they do not compress. The table "size" with its one column "wanted" (rows) comes from whoever reads this in.
.bail on
create table items(id integer primary key, customer integer, a integer, b integer, c integer, d integer, e integer, f integer);
create table customers(id integer primary key, a integer, b integer);
with recursive n(i) as (select 1 union all select i + 1 from n, size where i < wanted / 20)
  insert into customers select i, i * 7046029254386 % 281474976710597, i * 5732918446123 % 281474976710597 from n;
with recursive n(i) as (select 1 union all select i + 1 from n, size where i < wanted)
  insert into items select i, 1 + i * 104729 % (wanted / 20), i * 8573918765431 % 281474976710597,
    i * 6364136223846 % 281474976710597, i * 7935046062780 % 281474976710597, i * 3202034522624 % 281474976710597,
    i * 2862933555777 % 281474976710597, i * 4702111234474 % 281474976710597 from n, size;
create index by_customer on items(customer);
create index by_a on items(a);
select count(*), sum(b % 1000), min(c), max(d) from items;
select c.a, count(*), sum(i.e % 1000) s from customers c join items i on i.customer = c.id group by c.id order by s desc, c.id limit 10;
select count(*), sum(f % 1000) from items where a between 1000000000000 and 3000000000000;
update items set b = b + 1 where customer % 16 = 3;
select sum(b % 1000) from items;
