import { createServer } from 'node:http';
import pg from 'pg';
import { deploySql } from '../data/contenders-sql.ts';
import { databaseUrl, listen, poolMax } from './shared/serve.ts';

// The limit: node:http, and one prepared statement that makes the text of the answer. No GraphQL, nobody signs in, and
// everybody sees everything.

const pool = new pg.Pool({ connectionString: databaseUrl, max: poolMax });

// The quickest that we found by hand: text is put together, which costs a third less than objects of JSON; a page is read
// with its columns in one go.

/** An object as text. Each value is an expression that gives JSON; null is nothing. */
const object = (fields: Readonly<Record<string, string>>): string =>
  `concat(${Object.entries(fields)
    .map(([name, value], index) => `'${index === 0 ? '{' : ','}"${name}":', ${value}`)
    .join(', ')}, '}')`;
const list = (one: string, order: string): string => `'[', string_agg(${one}, ',' order by ${order}), ']'`;
const instant = (column: string) => `to_char(${column} at time zone 'UTC', '"\\""YYYY-MM-DD"T"HH24:MI:SS.MS"Z\\""')`;
// Short enough for one line of Base64.
const id = (type: string, column: string) => `'"', encode(convert_to('${type}:' || ${column}, 'UTF8'), 'base64'), '"'`;
const word = (column: string) => `'"', ${column}, '"'`;
const text = (column: string) => `to_json(${column})`;

const point = `select ${object({
  node: `(select ${object({
    id: id('Deployment', 'r.id'),
    status: word('r.status'),
    ref: text('d.ref'),
    createdAt: instant('r.created_at'),
    application: object({ name: text('a.name'), workspace: object({ name: text('w.name') }) }),
  })} from run r join deployment d on d.id = r.id join application a on a.id = d.application_id
      join workspace w on w.id = a.workspace_id where r.id = $1::uuid)`,
})}`;

const steps = `(select concat(${list(object({ name: text('s.name'), status: word('s.status') }), 's.position')})
  from run_step s where s.run_id = r.id)`;
const deployments = `(select concat(${list(
  object({
    id: id('Deployment', 'r.id'),
    status: word('r.status'),
    createdAt: instant('r.created_at'),
    actor: `coalesce((select ${object({ name: text('u.name') })} from app_user u where u.id = r.actor_id), 'null')`,
    steps,
  }),
  'd.id desc',
)}) from (select id from deployment where application_id = a.id order by id desc limit 5) d join run r on r.id = d.id)`;
const nested = `select ${object({
  workspace: `(select ${object({
    applications: object({
      nodes: `(select concat(${list(object({ name: text('a.name'), deployments: object({ nodes: deployments }) }), 'a.created_at desc, a.id desc')})
        from (select * from application where workspace_id = w.id order by created_at desc, id desc limit 20) a)`,
    }),
  })} from workspace w where w.slug = $1)`,
})}`;

const page = `with p as materialized (
    select d.id, d.ref from deployment d where d.application_id = $1::uuid and d.id < $2::uuid order by d.id desc limit 51
  ) select ${object({
    node: object({
      deployments: object({
        nodes: `(select concat(${list(
          object({
            id: id('Deployment', 'p.id'),
            status: word('r.status'),
            ref: text('p.ref'),
            createdAt: instant('r.created_at'),
            actor: `case when u.id is null then 'null' else ${object({ name: text('u.name') })} end`,
          }),
          'p.id desc',
        )}) from (select * from p limit 50) p join run r on r.id = p.id left join app_user u on u.id = r.actor_id)`,
        totalCount: '(select count(*) from deployment where application_id = $1::uuid)',
        pageInfo: object({ hasNextPage: '(select (count(*) > 50)::text from p)' }),
      }),
    }),
  })}`;

const create = deploySql({
  application: '$1::uuid',
  ref: "'main'",
  actor: 'null::uuid',
  where: 'true',
  select: `select ${object({
    createDeployment: object({
      deployment: object({ id: id('Deployment', 'r.id'), status: word('r.status'), ref: text('d.ref') }),
    }),
  })} from r, d`,
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
          const text = `{"data":${found?.[0] ?? 'null'}}`;
          const headers = { 'content-type': 'application/json', 'content-length': Buffer.byteLength(text) };
          response.writeHead(200, headers).end(text);
        })
        .catch((error: unknown) => response.writeHead(500).end(String(error)));
    });
  }),
);
