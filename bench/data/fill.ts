import pg from 'pg';
import { apiKey, apiKeyHash, epochMs, hostId, rowIdSql, stepMs, type Shape } from './shape.ts';

const instant = (ms: string) => `to_timestamp((${epochMs} + ${ms}) / 1000.0)`;

type Statement = readonly [what: string, sql: string];

/** What the server's own tables hold, by INSERT … SELECT. The same for the same shape, always. */
function statements(shape: Shape): Readonly<Record<'few' | 'runs' | 'events', readonly Statement[]>> {
  const { workspaces, users, applications, busy, deployments, eventsPerDeployment } = shape;
  const workspace = (i: string) => `((${i} - 1) % ${workspaces} + 1)`;
  const at = (i: string) => instant(`(${i})::bigint * ${stepMs}`);
  const few: Statement[] = [
    [
      'workspaces',
      `insert into workspace (id, name, slug, created_at, updated_at)
       select ${rowIdSql('workspace', 'i')}, 'Workspace ' || i, 'workspace-' || i, ${at('i')}, ${at('i')}
       from generate_series(1, ${workspaces}) i`,
    ],
    [
      'users',
      `insert into app_user (id, email, name, email_verified_at, created_at, updated_at)
       select ${rowIdSql('user', 'i')}, 'user' || i || '@example.com', 'User ' || i, ${at('i')}, ${at('i')}, ${at('i')}
       from generate_series(1, ${users}) i`,
    ],
    [
      'memberships',
      `insert into membership (id, workspace_id, user_id, role, created_at, updated_at)
       select ${rowIdSql('membership', 'i')}, ${rowIdSql('workspace', workspace('i'))}, ${rowIdSql('user', 'i')},
         (case when i <= ${workspaces} then 'OWNER' else 'MEMBER' end)::role, ${at('i')}, ${at('i')}
       from generate_series(1, ${users}) i`,
    ],
    [
      'the host',
      `insert into host (id, name, last_seen_at, agent_id, agent_until, updated_at, drivers)
       values ('${hostId}', 'bench', now(), '${hostId}', now(), now(), '{PROCESS}')`,
    ],
    [
      'applications',
      `insert into application (id, workspace_id, name, repository_url, branch, host_id, user_slot, driver, created_at, updated_at)
       select ${rowIdSql('application', 'i')}, ${rowIdSql('workspace', workspace('i'))}, 'app-' || i,
         'https://git.example.com/org/app-' || i || '.git', 'main', '${hostId}', i, 'PROCESS', ${at('i')}, ${at('i')}
       from generate_series(1, ${applications}) i`,
    ],
    [
      'the plan of deployments',
      `create unlogged table bench_plan as
       select i, app, ws, row_number() over (partition by ws order by i) turn, ${at('i')} at,
         ${rowIdSql('deployment', 'i')} id, ${rowIdSql('application', 'app')} application_id, ${rowIdSql('workspace', 'ws')} workspace_id,
         ${rowIdSql('user', `ws + ${workspaces} * (i / 7 % ${users / workspaces})`)} actor_id,
         case when hash < 80 then 'SUCCEEDED' when hash < 92 then 'FAILED' else 'CANCELED' end status
       from (
         select i, app, ${workspace('app')} ws, abs(hashint4(i)) % 100 hash from (
           select i, case when i % 2 = 1 then (i - 1) / 2 % ${busy} + 1
             else ${busy} + (i - 1) / 2 % ${applications - busy} + 1 end app
           from generate_series(1, ${deployments}) i
         ) of_applications
       ) of_workspaces order by i`,
    ],
  ];
  const runs: Statement[] = [
    [
      'runs',
      `insert into run (id, workspace_id, kind, status, phase, attempt, trigger, actor_id, lock_key, host_id, input,
         input_version, started_at, completed_at, deadline_at, created_at, updated_at)
       select id, workspace_id, 'Deployment', status::run_status,
         case status when 'SUCCEEDED' then 'DEPLOYED' when 'FAILED' then 'FAILED' else 'CANCELED' end,
         1, 'API', actor_id, 'application:' || application_id, '${hostId}',
         jsonb_build_object('kind', 'BUILD', 'applicationId', application_id, 'ref', 'main'),
         2, at, at + interval '50 seconds', at + interval '1 hour', at, at
       from bench_plan`,
    ],
    [
      'deployments',
      `insert into deployment (id, application_id, ref, commit_sha, commit_subject)
       select id, application_id, case i % 5 when 0 then 'release/' || i % 17 else 'main' end, md5(i::text) || substr(md5('c' || i), 1, 8),
         'Change no. ' || i || ' of "app-' || app || '"'
       from bench_plan`,
    ],
    [
      'steps',
      `insert into run_step (id, run_id, name, position, status, attempt, started_at, completed_at, created_at, updated_at)
       select ${rowIdSql('step', '(i - 1) * 3 + s')}, id, (array['build', 'start', 'health'])[s],
         s - 1, (case when s < 3 or status = 'SUCCEEDED' then 'SUCCEEDED' when status = 'FAILED' then 'FAILED' else 'CANCELED' end)::step_status,
         1, at, at, at, at
       from bench_plan, generate_series(1, 3) s`,
    ],
  ];
  const events: Statement[] = [
    [
      'events',
      `insert into event (workspace_id, seq, type, version, from_state, to_state, subject_type, subject_id, run_id, run_kind,
         actor_id, actor_kind, data, at)
       select workspace_id, (turn - 1) * ${eventsPerDeployment} + e,
         case when e = 1 then 'deployment.queued' when e < ${eventsPerDeployment} then 'deployment.building'
           else 'deployment.' || lower(case status when 'SUCCEEDED' then 'DEPLOYED' else status end) end,
         1, case when e > 1 then 'BUILDING' end,
         case when e = 1 then 'PENDING' when e < ${eventsPerDeployment} then 'BUILDING' when status = 'SUCCEEDED' then 'DEPLOYED' else status end,
         'Deployment', id, id, 'Deployment', actor_id, 'API_KEY',
         jsonb_build_object('applicationId', application_id), at + e * interval '5 seconds'
       from bench_plan, generate_series(1, ${eventsPerDeployment}) e`,
    ],
    [
      'heads of the logs',
      `insert into event_head (workspace_id, seq)
       select ${rowIdSql('workspace', 'w')}, ${eventsPerDeployment} * coalesce(max(turn), 0)
       from generate_series(1, ${workspaces}) w left join bench_plan on ws = w group by w`,
    ],
  ];
  return { few, runs, events };
}

const large = `('run'::regclass, 'deployment'::regclass, 'run_step'::regclass, 'event'::regclass)`;

/** Fills a migrated, empty database. */
export async function fill(url: string, shape: Shape, tell: (what: string) => void): Promise<void> {
  const clients = [new pg.Client({ connectionString: url }), new pg.Client({ connectionString: url })] as const;
  try {
    for (const one of clients) {
      await one.connect();
      await one.query(`set maintenance_work_mem = '512MB'; set work_mem = '256MB'; set synchronous_commit = off`);
    }
    await fillBy(clients, shape, tell);
  } finally {
    for (const one of clients) await one.end();
  }
}

async function fillBy(
  clients: readonly [pg.Client, pg.Client],
  shape: Shape,
  tell: (what: string) => void,
): Promise<void> {
  const { few, runs, events } = statements(shape);
  const [client, second] = clients;
  const all = async (on: pg.Client, statements: readonly Statement[]): Promise<void> => {
    for (const [what, sql] of statements) {
      const begun = performance.now();
      await on.query(sql);
      const seconds = (performance.now() - begun) / 1000;
      if (seconds > 2) tell(`${what}: ${seconds.toFixed(0)} s`);
    }
  };
  await all(client, few);
  await client.query('analyze bench_plan');
  // Of many rows, an index is made quicker afterwards, and what they refer to is there.
  const { rows: indexes } = await client.query<{ name: string; drop: string; make: string }>(
    `select indexrelid::regclass::text name, 'drop index ' || indexrelid::regclass drop, pg_get_indexdef(indexrelid) make
     from pg_index i where indrelid in ${large} and not exists (select 1 from pg_constraint c where c.conindid = i.indexrelid)
     union all
     select conname, 'alter table event drop constraint ' || conname,
       'alter table event add constraint ' || conname || ' ' || pg_get_constraintdef(oid)
     from pg_constraint where conrelid = 'event'::regclass and contype = 'p'`,
  );
  for (const { drop } of indexes) await client.query(drop);
  for (const one of clients) await one.query('set session_replication_role = replica');
  await Promise.all([all(client, runs), all(second, events)]);
  for (const one of clients) await one.query('reset session_replication_role');
  await client.query('drop table bench_plan');
  const todo = indexes.map(({ name, make }): Statement => [name, make]);
  await Promise.all(
    clients.map(async (one) => {
      for (let next = todo.pop(); next; next = todo.pop()) await all(one, [next]);
    }),
  );
  const numbers = Array.from({ length: shape.users }, (_, index) => index + 1);
  await client.query(
    `insert into api_key (id, workspace_id, created_by_id, name, prefix, key_hash, role, created_at, updated_at, last_seen_at)
     select ${rowIdSql('key', 'i')}, ${rowIdSql('workspace', `((i - 1) % ${shape.workspaces} + 1)`)}, ${rowIdSql('user', 'i')}, 'bench', prefix, hash, 'MEMBER', now(), now(), now()
     from unnest($1::int[], $2::text[], $3::text[]) k(i, prefix, hash)`,
    [numbers, numbers.map((i) => apiKey(i).slice(0, 11)), numbers.map(apiKeyHash)],
  );
  // The visibility map, without which no index tells a count alone.
  await all(client, [['statistics', 'vacuum (analyze)']]);
}
