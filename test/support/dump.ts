import pg from 'pg';

/** What `COPY … TO STDOUT` gives. */
async function copied(client: pg.Client, text: string): Promise<string> {
  const chunks: Buffer[] = [];
  const query = Object.assign(new pg.Query(text), {
    handleCopyData: ({ chunk }: { chunk: Buffer }) => void chunks.push(chunk),
  });
  await new Promise<void>((resolve, reject) => {
    query.on('end', () => resolve());
    query.on('error', reject);
    client.query(query);
  });
  return Buffer.concat(chunks).toString();
}

/** Everything that a dump of a database would show: each row of each table by COPY, job engine included. */
export async function dump(url: string): Promise<string> {
  const client = new pg.Client({ connectionString: url });
  await client.connect();
  try {
    const { rows: tables } = await client.query<{ name: string }>(
      `select format('%I.%I', table_schema, table_name) as name from information_schema.tables
       where table_type = 'BASE TABLE' and table_schema not in ('pg_catalog', 'information_schema') order by 1`,
    );
    const found: string[] = [];
    // By a select: a partitioned table has no rows of its own to copy.
    for (const { name } of tables)
      found.push(`${name}\n${await copied(client, `copy (select * from ${name}) to stdout`)}`);
    return found.join('\n');
  } finally {
    await client.end();
  }
}

/** A text as it may hide in a dump or a log: plain, in JSON, in URLs, as hexadecimal digits, as base64 and base64url. */
export function formsOf(text: string): string[] {
  const hex = Buffer.from(text).toString('hex');
  const base64 = [0, 1, 2].map((offset) =>
    // Without the characters at both ends that depend on what stands beside it.
    Buffer.from('x'.repeat(offset) + text)
      .toString('base64')
      .slice(4, -4),
  );
  const base64url = base64.map((one) => one.replaceAll('+', '-').replaceAll('/', '_'));
  const forms = [
    text,
    JSON.stringify(text).slice(1, -1),
    encodeURIComponent(text),
    encodeURIComponent(text).replaceAll('%20', '+'),
    hex,
    hex.toUpperCase(),
    ...base64,
    ...base64url,
  ];
  return [...new Set(forms)];
}

/** Which of the texts are to be found there, in any form. */
export const foundIn = (where: string, ...texts: string[]): string[] =>
  texts.filter((text) => formsOf(text).some((form) => where.includes(form)));
