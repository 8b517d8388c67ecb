import type pg from 'pg';

/** Tables whose rows are not shown, or are what the test itself stands on. */
const left = new Set(['user_rights', 'session', 'event', 'event_head', 'run_log', '_prisma_migrations']);

const text = [
  `"q" \\ / \b\f\n\r\t \u0001\u0002\u0003\u001f\u007f \u2028\u2029 é 漢 😀 </script> ' $1 $2 {"a":1} \\u0001 E'\\n'`,
  '',
  ' ',
  '\u0001',
  '\u0002{"a":1}\u0003',
  '\\',
  `';--`,
  'null',
  '𝕏'.repeat(40),
];

/** SQL of values by type of the column: the first and last that there are, and what is written in several ways. */
const values: Readonly<Record<string, readonly string[]>> = {
  integer: ['-2147483648', '2147483647', '0'],
  smallint: ['-32768', '32767', '0'],
  bigint: ['-9223372036854775808', '9223372036854775807', '9007199254740992', '-9007199254740993', '0'],
  'double precision':
    `'NaN' 'Infinity' '-Infinity' -0.0 0.1 1e21 1e15 999999999999999.9 1e-4 0.00009999 5e-324 1.7976931348623157e308 -123456.789 1e20 4.35 2.5e-7`.split(
      ' ',
    ),
  boolean: ['true', 'false'],
  'timestamp with time zone': `0001-01-01 00:00:00Z;9999-12-31 23:59:59.999Z;10000-01-01 00:00:00Z;0044-03-15 12:00:00Z BC;1969-12-31 23:59:59.999Z;2024-02-29 12:00:00.1Z;1883-11-18 12:00:00Z`.split(';').map((one) => `'${one}'::timestamptz`), // prettier-ignore
  jsonb: ['null', '[]', '{}', '0', '1e400', '-0', '-0.0', '1e21', '12345678901234567890.123456789', '1.10', '"\\u0001\\u0002\\u0003\\u2028"', 'true', '{"__proto__":{"a":1},"toJSON":2,"10":1,"9":2,"":3,"constructor":null}', '[[[[[[]]]]],{"a":{"b":{"c":[1,null,"x"]}}}]'].map((one) => `'${one}'::jsonb`), // prettier-ignore
};

/**
 * Puts what is seldom there into rows, a column at a time, with whatever the database lets through: nulls, empty texts and
 * lists, control characters, the ends of numbers and of time. The same numbers do the same.
 * @returns how many columns were changed
 */
export async function spoil(pool: pg.Pool, random: () => number, columns: number): Promise<number> {
  const { rows } = await pool.query<{ t: string; c: string; type: string; udt: string; nullable: boolean }>(`
    select c.table_name t, c.column_name c, c.data_type type, c.udt_name udt, c.is_nullable = 'YES' nullable
    from information_schema.columns c join information_schema.tables using (table_schema, table_name)
    where c.table_schema = 'public' and table_type = 'BASE TABLE' and not exists (
      select 1 from information_schema.key_column_usage k join information_schema.table_constraints o using (constraint_schema, constraint_name)
      where k.table_schema = 'public' and k.table_name = c.table_name and k.column_name = c.column_name and o.constraint_type <> 'UNIQUE')
    order by 1, 2`);
  const all = rows.filter(({ t, c, type }) => !left.has(t) && c !== 'kind' && type !== 'uuid' && type !== 'bytea');
  const one = <T>(of: readonly T[]): T => of[Math.floor(random() * of.length)] as T;
  let changed = 0;
  for (let i = 0; i < columns; i++) {
    const { t, c, type, udt, nullable } = one(all);
    const isText = type === 'text' || type.startsWith('character');
    const sql =
      random() < 0.2 && nullable
        ? 'null'
        : isText
          ? '$2'
          : type === 'USER-DEFINED'
            ? `(select v from unnest(enum_range(null::${udt})) v order by md5(v::text || $1) limit 1)`
            : type === 'ARRAY'
              ? one([`'{}'`, 'array[$2]'])
              : one(values[type] ?? ['null']);
    const given = sql.includes('$2') ? [String(random()), one(text)] : [String(random())];
    // Of some, so that others stay as they were.
    const where = `('x' || left(md5(ctid::text || $1), 6))::bit(24)::int % 4 = 0`;
    const { rowCount } = await pool
      .query(`update "${t}" set "${c}" = ${sql} where ${where}`, given)
      // A rule of the database's own is against it.
      .catch(() => ({ rowCount: 0 }));
    changed += Number((rowCount ?? 0) > 0);
  }
  return changed;
}
