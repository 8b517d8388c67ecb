import type pg from 'pg';
import { apiKey, apiKeyHash, epochMs, hostId, rowIdSql, stepMs, type Shape } from './shape.ts';

const instant = (ms: string) => `to_timestamp((${epochMs} + ${ms}) / 1000.0)`;

/** What the server's own tables hold, by INSERT … SELECT. The same for the same shape, always. */
function statements(shape: Shape): readonly (readonly [what: string, sql: string])[] {
  const { workspaces, users, applications, busy, deployments, eventsPerDeployment } = shape;
  const workspace = (i: string) => `((${i} - 1) % ${workspaces} + 1)`;
  const at = (i: string) => instant(`(${i})::bigint * ${stepMs}`);
  return [
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
      `create temporary table plan as
       select i, app, ${workspace('app')} ws, hash,
         case when hash < 80 then 'SUCCEEDED' when hash < 92 then 'FAILED' else 'CANCELED' end status
       from (
         select i, abs(hashint4(i)) % 100 hash,
           case when i % 2 = 1 then (i - 1) / 2 % ${busy} + 1
                else ${busy} + (i - 1) / 2 % ${applications - busy} + 1 end app
         from generate_series(1, ${deployments}) i
       ) numbered`,
    ],
    [
      'runs',
      `insert into run (id, workspace_id, kind, status, phase, attempt, trigger, actor_id, lock_key, host_id, input,
         input_version, started_at, completed_at, deadline_at, created_at, updated_at)
       select ${rowIdSql('deployment', 'i')}, ${rowIdSql('workspace', 'ws')}, 'Deployment', status::run_status,
         case status when 'SUCCEEDED' then 'DEPLOYED' when 'FAILED' then 'FAILED' else 'CANCELED' end,
         1, 'API', ${rowIdSql('user', `ws + ${workspaces} * (i / 7 % ${users / workspaces})`)},
         'application:' || ${rowIdSql('application', 'app')}, '${hostId}',
         jsonb_build_object('kind', 'BUILD', 'applicationId', ${rowIdSql('application', 'app')}, 'ref', 'main'),
         2, ${at('i')}, ${at('i')} + interval '50 seconds', ${at('i')} + interval '1 hour', ${at('i')}, ${at('i')}
       from plan`,
    ],
    [
      'deployments',
      `insert into deployment (id, application_id, ref, commit_sha, commit_subject)
       select ${rowIdSql('deployment', 'i')}, ${rowIdSql('application', 'app')},
         case i % 5 when 0 then 'release/' || i % 17 else 'main' end, md5(i::text) || substr(md5('c' || i), 1, 8),
         'Change no. ' || i || ' of "app-' || app || '"'
       from plan`,
    ],
    [
      'steps',
      `insert into run_step (id, run_id, name, position, status, attempt, started_at, completed_at, created_at, updated_at)
       select ${rowIdSql('step', '(i - 1) * 3 + s')}, ${rowIdSql('deployment', 'i')}, (array['build', 'start', 'health'])[s],
         s - 1, (case when s < 3 or status = 'SUCCEEDED' then 'SUCCEEDED' when status = 'FAILED' then 'FAILED' else 'CANCELED' end)::step_status,
         1, ${at('i')}, ${at('i')}, ${at('i')}, ${at('i')}
       from plan, generate_series(1, 3) s`,
    ],
    [
      'events',
      `insert into event (workspace_id, seq, type, version, from_state, to_state, subject_type, subject_id, run_id, run_kind,
         actor_id, actor_kind, data, at)
       select ${rowIdSql('workspace', 'ws')}, row_number() over (partition by ws order by i, e),
         case when e = 1 then 'deployment.queued' when e < ${eventsPerDeployment} then 'deployment.building'
           else 'deployment.' || lower(case status when 'SUCCEEDED' then 'DEPLOYED' else status end) end,
         1, case when e > 1 then 'BUILDING' end,
         case when e = 1 then 'PENDING' when e < ${eventsPerDeployment} then 'BUILDING' when status = 'SUCCEEDED' then 'DEPLOYED' else status end,
         'Deployment', ${rowIdSql('deployment', 'i')}, ${rowIdSql('deployment', 'i')}, 'Deployment',
         ${rowIdSql('user', `ws + ${workspaces} * (i / 7 % ${users / workspaces})`)}, 'API_KEY',
         jsonb_build_object('applicationId', ${rowIdSql('application', 'app')}), ${at('i')} + e * interval '5 seconds'
       from plan, generate_series(1, ${eventsPerDeployment}) e`,
    ],
    [
      'heads of the logs',
      `insert into event_head (workspace_id, seq)
       select w.id, coalesce(max(e.seq), 0) from workspace w left join event e on e.workspace_id = w.id
       where w.slug like 'workspace-%' group by w.id`,
    ],
    ['nothing', 'drop table plan'],
  ];
}

/** Fills a migrated, empty database. */
export async function fill(client: pg.Client, shape: Shape, tell: (what: string) => void): Promise<void> {
  await client.query(`set maintenance_work_mem = '256MB'; set work_mem = '256MB'; set synchronous_commit = off`);
  for (const [what, sql] of statements(shape)) {
    const begun = performance.now();
    await client.query(sql);
    const seconds = (performance.now() - begun) / 1000;
    if (seconds > 2) tell(`${what}: ${seconds.toFixed(0)} s`);
  }
  const numbers = Array.from({ length: shape.users }, (_, index) => index + 1);
  await client.query(
    `insert into api_key (id, workspace_id, created_by_id, name, prefix, key_hash, role, created_at, updated_at, last_seen_at)
     select ${rowIdSql('key', 'i')}, ${rowIdSql('workspace', `((i - 1) % ${shape.workspaces} + 1)`)}, ${rowIdSql('user', 'i')}, 'bench', prefix, hash, 'MEMBER', now(), now(), now()
     from unnest($1::int[], $2::text[], $3::text[]) k(i, prefix, hash)`,
    [numbers, numbers.map((i) => apiKey(i).slice(0, 11)), numbers.map(apiKeyHash)],
  );
  // The visibility map, without which no index tells a count alone.
  await client.query('vacuum (analyze)');
}
