/** What a deployment begins with, as the server makes it. */
const steps = "array['fetch', 'scan', 'build', 'start', 'health', 'activate', 'rollback']";

/**
 * One statement that writes what `createDeployment` writes: the run, its steps, the deployment, the wake-up in the job
 * engine's table, the event at the head of the workspace's log. Each value is an SQL expression.
 */
export const deploySql = (value: {
  readonly application: string;
  readonly ref: string;
  readonly actor: string;
  /** Further condition on the application `a`. */
  readonly where: string;
  /** What it gives of `r` (run), `d` (deployment). */
  readonly select: string;
}): string => `
  with app as (
    select a.id, a.workspace_id, a.host_id from application a
    where a.id = ${value.application} and a.removal_asked_at is null and ${value.where} for update
  ), r as (
    insert into run (id, workspace_id, kind, phase, trigger, actor_id, lock_key, host_id, input, input_version, deadline_at, updated_at)
    select uuidv7(), workspace_id, 'Deployment', 'PENDING', 'API', ${value.actor}, 'application:' || id, host_id,
      jsonb_build_object('kind', 'BUILD', 'applicationId', id, 'ref', ${value.ref}), 2, now() + interval '1 hour', now()
    from app returning *
  ), s as (
    insert into run_step (id, run_id, name, position, updated_at)
    select uuidv7(), r.id, n.name, n.i - 1, now() from r, unnest(${steps}) with ordinality n(name, i)
  ), d as (
    insert into deployment (id, application_id, ref) select r.id, app.id, ${value.ref} from r, app returning *
  ), j as (
    insert into pgboss.job (id, name, data, singleton_key, policy, retry_limit, retry_delay, retry_backoff, expire_seconds,
      deletion_seconds, keep_until)
    select gen_random_uuid(), q.name, jsonb_build_object('runId', r.id), r.id::text, q.policy, q.retry_limit, q.retry_delay,
      q.retry_backoff, q.expire_seconds, q.deletion_seconds, now() + q.retention_seconds * interval '1 second'
    from r join pgboss.queue q on q.name = 'run.' || r.host_id
  ), h as (
    update event_head set seq = seq + 1 from app where event_head.workspace_id = app.workspace_id returning seq
  ), e as (
    insert into event (workspace_id, seq, type, version, to_state, subject_type, subject_id, run_id, run_kind, actor_id,
      actor_kind, data)
    select r.workspace_id, h.seq, 'deployment.queued', 1, 'PENDING', 'Deployment', r.id, r.id, 'Deployment', ${value.actor},
      case when ${value.actor} is null then 'SYSTEM' else 'API_KEY' end, jsonb_build_object('applicationId', d.application_id)
    from r, h, d
  ) ${value.select}`;

const mine = `nullif(current_setting('bench.workspace', true), '')::uuid`;
const actor = `nullif(current_setting('bench.user', true), '')::uuid`;

const policy = (table: string, using: string): string => `
  alter table ${table} enable row level security;
  create policy bench_${table} on ${table} for select to bench_rls using (${using});`;

/**
 * For PostGraphile: a mutation, and rights by claims for the role `bench_rls`. Everybody else connects as the owner,
 * for whom row level security does not hold.
 */
export const contendersSql = `
  do $$ begin create role bench_rls; exception when duplicate_object then null; end $$;
  grant usage on schema public to bench_rls;
  grant select on workspace, membership, app_user, application, run, run_step, deployment to bench_rls;
  create function make_deployment(application_id uuid, ref text) returns deployment language sql volatile
    security definer set search_path = public as $$ ${deploySql({
      application: '$1',
      ref: '$2',
      actor,
      where: `(${mine} is null or (a.workspace_id = ${mine} and exists (select 1 from membership m
        where m.workspace_id = a.workspace_id and m.user_id = ${actor} and m.role in ('OWNER', 'ADMIN', 'MEMBER'))))`,
      select: 'select d.* from d',
    })} $$;
  -- Deployments of the bench count as begun: else each of an application's would first end the one before.
  create function bench_begun() returns trigger language plpgsql as $$ begin new.attempt := 1; return new; end $$;
  create trigger bench_begun before insert on run for each row when (new.phase = 'PENDING') execute function bench_begun();
  comment on table workspace is E'@unique slug';
  comment on table run is E'@foreignKey (actor_id) references app_user (id)';
  ${policy('workspace', `id = ${mine}`)}
  ${policy('membership', `workspace_id = ${mine}`)}
  ${policy('app_user', `exists (select 1 from membership m where m.user_id = app_user.id and m.workspace_id = ${mine})`)}
  ${policy('application', `workspace_id = ${mine}`)}
  ${policy('run', `workspace_id = ${mine}`)}
  ${policy('deployment', `exists (select 1 from run r where r.id = deployment.id and r.workspace_id = ${mine})`)}
  ${policy('run_step', `exists (select 1 from run r where r.id = run_step.run_id and r.workspace_id = ${mine})`)}
`;
