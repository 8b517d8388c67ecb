import { createServer } from 'node:http';
import pg from 'pg';
import { deploySql } from '../data/contenders-sql.ts';
import { databaseUrl, listen, poolMax } from './shared/serve.ts';

// The limit: node:http, and one prepared statement that makes the text of the answer. No GraphQL, nobody signs in, and
// everybody sees everything.

const pool = new pg.Pool({ connectionString: databaseUrl, max: poolMax });

// The quickest that we found by hand. Text is put together, which costs a third less than objects of JSON; what all items of
// a list begin and end with is written once, by what stands between them; a page is read with its columns in one go, as an
// array that may be one longer than the page; what a row refers to is looked up for each and remembered from row to row.

// Short enough for one line of Base64.
const id = (type: string, column: string) => `encode(textsend('${type}:' || ${column}), 'base64')`;
const text = (column: string) => `json_scalar(${column})`;
/** Behind a mark, as PostgreSQL writes it the soonest: see `withInstants`. */
const mark = '\u0004';
const instant = (column: string) => `'${mark}', json_scalar(${column} at time zone interval '0')`;
const marked = new RegExp(`${mark}"(.{19})\\.?(\\d*)"`, 'g');
/** Zeros at the end, and the zone. */
const withInstants = (of: string): string =>
  of.replaceAll(marked, (_, seconds: string, ms: string) => `"${seconds}.${ms.padEnd(3, '0')}Z"`);

/** Items of an array, each between a head and a tail. */
const list = (head: string, items: string, tail: string): string =>
  `'[', '${head}' || nullif(array_to_string(${items}, '${tail},${head}'), '') || '${tail}', ']'`;
const lookUp = (table: string, alias: string, condition: string): string =>
  `left join lateral (select * from ${table} ${alias} where ${condition} offset 0) ${alias} on true`;
const actor = `case when u.id is null then 'null' else concat('{"name":', ${text('u.name')}, '}') end`;

const point = `select concat('{"node":', (select concat('{"id":"', ${id('Deployment', 'r.id')}, '","status":"', r.status,
    '","ref":', ${text('d.ref')}, ',"createdAt":', ${instant('r.created_at')}, ',"application":{"name":', ${text('a.name')},
    ',"workspace":{"name":', ${text('w.name')}, '}}}')
  from run r join deployment d on d.id = r.id join application a on a.id = d.application_id
    join workspace w on w.id = a.workspace_id where r.id = $1::uuid), '}')`;

const steps = `array(select concat(${text('s.name')}, ',"status":"', s.status) from run_step s where s.run_id = r.id
  order by s.position)`;
const deployments = `array(select concat(${id('Deployment', 'r.id')}, '","status":"', r.status, '","createdAt":',
    ${instant('r.created_at')}, ',"actor":', ${actor}, ',"steps":', ${list('{"name":', steps, '"}')})
  from (select id from deployment where application_id = a.id order by id desc limit 5) d
    ${lookUp('run', 'r', 'r.id = d.id')} ${lookUp('app_user', 'u', 'u.id = r.actor_id')})`;
const applications = `array(select concat(${text('a.name')}, ',"deployments":{"nodes":', ${list('{"id":"', deployments, '}')})
  from (select * from application where workspace_id = w.id order by created_at desc, id desc limit 20) a)`;
const nested = `select concat('{"workspace":', (select concat('{"applications":{"nodes":', ${list('{"name":', applications, '}}')},
  '}}') from workspace w where w.slug = $1), '}')`;

const page = `select concat('{"node":{"deployments":{"nodes":', ${list('{"id":"', 'p.items[:50]', '}')}, ',"totalCount":',
    (select count(*) from deployment where application_id = $1::uuid), ',"pageInfo":{"hasNextPage":',
    (cardinality(p.items) > 50)::text, '}}}}')
  from (select array(select concat(${id('Deployment', 'r.id')}, '","status":"', r.status, '","ref":', ${text('d.ref')},
      ',"createdAt":', ${instant('r.created_at')}, ',"actor":', ${actor})
    from (select d.* from deployment d where d.application_id = $1::uuid and d.id < $2::uuid order by d.id desc limit 51) d
      ${lookUp('run', 'r', 'r.id = d.id')} ${lookUp('app_user', 'u', 'u.id = r.actor_id')}) as items offset 0) p`;

const create = deploySql({
  application: '$1::uuid',
  ref: "'main'",
  actor: 'null::uuid',
  where: 'true',
  select: `select concat('{"createDeployment":{"deployment":{"id":"', ${id('Deployment', 'r.id')}, '","status":"', r.status,
    '","ref":', ${text('d.ref')}, '}}}') from r, d`,
});

interface Variables {
  readonly id?: string;
  readonly slug?: string;
  readonly after?: string | null;
}

const row = (global = ''): string => Buffer.from(global, 'base64').toString().split(':')[1] ?? '';

/** Statement and values, by the first letters of the document. */
const operations: Readonly<Record<string, { text: string; values: (given: Variables) => unknown[] }>> = {
  Q1: { text: point, values: (given) => [row(given.id)] },
  Q2: { text: nested, values: ({ slug }) => [slug] },
  Q3: { text: page, values: (given) => [row(given.id), given.after ?? 'ffffffff-ffff-ffff-ffff-ffffffffffff'] },
  M1: { text: create, values: (given) => [row(given.id)] },
};

listen(
  createServer((request, response) => {
    const chunks: Buffer[] = [];
    request.on('data', (chunk: Buffer) => chunks.push(chunk));
    request.on('end', () => {
      const { query, variables } = JSON.parse(Buffer.concat(chunks).toString()) as {
        query: string;
        variables: Variables;
      };
      const at = query.indexOf(' ') + 1;
      const name = query.slice(at, at + 2);
      const operation = operations[name];
      if (!operation) return void response.writeHead(400).end();
      pool
        .query<[string]>({ name, text: operation.text, values: operation.values(variables), rowMode: 'array' } as never)
        .then(({ rows: [found] }) => {
          const text = `{"data":${withInstants(found?.[0] ?? 'null')}}`;
          const headers = { 'content-type': 'application/json', 'content-length': Buffer.byteLength(text) };
          response.writeHead(200, headers).end(text);
        })
        .catch((error: unknown) => response.writeHead(500).end(String(error)));
    });
  }),
);
