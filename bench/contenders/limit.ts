import { createServer } from 'node:http';
import pg from 'pg';
import { deploySql } from '../data/contenders-sql.ts';
import { databaseUrl, listen, poolMax } from './shared/serve.ts';

// The limit: node:http, and one prepared statement that makes the text of the answer. No GraphQL, nobody signs in, and
// everybody sees everything.

const pool = new pg.Pool({ connectionString: databaseUrl, max: poolMax });

const instant = (column: string) => `to_char(${column} at time zone 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.MS"Z"')`;
const id = (type: string, column: string) => `translate(encode(convert_to('${type}:' || ${column}, 'UTF8'), 'base64'), E'\\n', '')`; // prettier-ignore

const point = `select json_build_object('node', (
  select json_build_object('id', ${id('Deployment', 'r.id')}, 'status', r.status, 'ref', d.ref, 'createdAt', ${instant('r.created_at')},
    'application', json_build_object('name', a.name, 'workspace', json_build_object('name', w.name)))
  from run r join deployment d on d.id = r.id join application a on a.id = d.application_id join workspace w on w.id = a.workspace_id
  where r.id = $1::uuid))::text`;

const nested = `select json_build_object('workspace', (
  select json_build_object('applications', json_build_object('nodes', (
    select coalesce(json_agg(json_build_object('name', a.name, 'deployments', json_build_object('nodes', ds.nodes)) order by a.created_at desc, a.id desc), '[]') from (
      select * from application where workspace_id = w.id order by created_at desc, id desc limit 20
    ) a cross join lateral (
      select coalesce(json_agg(json_build_object('id', ${id('Deployment', 'r.id')}, 'status', r.status, 'createdAt', ${instant('r.created_at')},
        'actor', (select json_build_object('name', u.name) from app_user u where u.id = r.actor_id),
        'steps', (select coalesce(json_agg(json_build_object('name', s.name, 'status', s.status) order by s.position), '[]')
          from run_step s where s.run_id = r.id)) order by d.id desc), '[]') nodes
      from (select id from deployment where application_id = a.id order by id desc limit 5) d join run r on r.id = d.id
    ) ds)))
  from workspace w where w.slug = $1))::text`;

// Ids first, which the index alone tells.
const page = `with p as materialized (
    select d.id from deployment d where d.application_id = $1::uuid and d.id < $2::uuid order by d.id desc limit 51
  )
  select json_build_object('node', json_build_object('deployments', json_build_object(
    'nodes', (select coalesce(json_agg(json_build_object('id', ${id('Deployment', 'r.id')}, 'status', r.status, 'ref', d.ref,
        'createdAt', ${instant('r.created_at')}, 'actor', case when u.id is not null then json_build_object('name', u.name) end) order by n.id desc), '[]')
      from (select * from p limit 50) n join deployment d on d.id = n.id join run r on r.id = n.id left join app_user u on u.id = r.actor_id),
    'totalCount', (select count(*) from deployment where application_id = $1::uuid),
    'pageInfo', json_build_object('hasNextPage', (select count(*) > 50 from p)))))::text`;

const create = deploySql({
  application: '$1::uuid',
  ref: "'main'",
  actor: 'null::uuid',
  where: 'true',
  select: `select json_build_object('createDeployment', json_build_object('deployment',
    json_build_object('id', ${id('Deployment', 'r.id')}, 'status', r.status, 'ref', d.ref)))::text from r, d`,
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
