import { createHash } from 'node:crypto';
import DataLoader from 'dataloader';
import pg from 'pg';
import { deploySql } from '../../data/contenders-sql.ts';
import { databaseUrl, poolMax } from './serve.ts';

// What somebody writes by hand who wants speed: prepared statements by name, and a DataLoader for each kind of look-up.
// The same rights as the server's: rows of the workspaces that the key reaches, people one shares a workspace with.

export const pool = new pg.Pool({ connectionString: databaseUrl, max: poolMax });

type Row = Record<string, unknown>;

async function rows<R extends Row>(name: string, text: string, values: readonly unknown[]): Promise<R[]> {
  const { rows: found } = await pool.query<R>({ name, text, values: [...values] });
  return found;
}

export interface Actor {
  readonly userId: string;
  readonly workspaceId: string;
  readonly role: string;
}

const keySql = `select k.created_by_id "userId", k.workspace_id "workspaceId", least(k.role, m.role)::text keyed, greatest(k.role, m.role)::text role
  from api_key k join membership m on m.workspace_id = k.workspace_id and m.user_id = k.created_by_id
  join workspace w on w.id = k.workspace_id and w.deleted_at is null
  where k.revoked_at is null and (k.expires_at is null or k.expires_at > now()) and k.key_hash = $1`;

/** By the API key of a request. Its rights are read each time, as the server does it. */
export async function actorOf(authorization: string | undefined): Promise<Actor> {
  const key = /^Bearer (sy_[\w-]+)$/.exec(authorization ?? '')?.[1];
  if (!key) throw new Error('Sign in');
  const [found] = await rows<Row & Actor>('key', keySql, [createHash('sha256').update(key).digest('hex')]);
  if (!found) throw new Error('The API key is not valid');
  return found;
}

const workspaceColumns = 'id, name, slug';
const applicationColumns = 'id, workspace_id "workspaceId", name';
const deploymentColumns = `r.id, r.workspace_id "workspaceId", r.status, r.created_at "createdAt", r.actor_id "actorId",
  d.application_id "applicationId", d.ref`;

export interface WorkspaceRow extends Row {
  readonly kind: 'Workspace';
  readonly id: string;
}
export interface ApplicationRow extends Row {
  readonly id: string;
  readonly workspaceId: string;
}
export interface DeploymentRow extends Row {
  readonly id: string;
  readonly applicationId: string;
  readonly actorId: string | null;
}

/** Who looks, and whether it is remembered what was found. */
class Scope {
  protected readonly actor: Actor;
  protected readonly options: { readonly cache: boolean };
  constructor(actor: Actor, options: { readonly cache: boolean }) {
    this.actor = actor;
    this.options = options;
  }
}

/** Look-ups of one request, or of one stream. */
export class Data extends Scope {
  readonly #byId = <R extends Row>(name: string, sql: string) =>
    new DataLoader<string, R | null>(async (ids) => {
      const found = new Map((await rows<R>(name, sql, [ids, this.actor.workspaceId])).map((row) => [row['id'], row]));
      return ids.map((id) => found.get(id) ?? null);
    }, this.options);

  readonly workspace = this.#byId<WorkspaceRow>(
    'workspace',
    `select ${workspaceColumns} from workspace where id = any($1::uuid[]) and id = $2`,
  );
  readonly application = this.#byId<ApplicationRow>(
    'application',
    `select ${applicationColumns} from application where id = any($1::uuid[]) and workspace_id = $2`,
  );
  readonly deployment = this.#byId<DeploymentRow>(
    'deployment',
    `select ${deploymentColumns} from run r join deployment d on d.id = r.id where r.id = any($1::uuid[]) and r.workspace_id = $2`,
  );
  readonly user = this.#byId<Row>(
    'user',
    `select id, name from app_user u where id = any($1::uuid[])
       and exists (select 1 from membership m where m.user_id = u.id and m.workspace_id = $2)`,
  );
  readonly steps = new DataLoader<string, Row[]>(async (all) => {
    const ids = [...new Set(all)];
    const found = await rows('steps', 'select run_id, name, status from run_step where run_id = any($1::uuid[]) order by position', [ids]); // prettier-ignore
    const byRun = Map.groupBy(found, (row) => row['run_id']);
    return all.map((id) => byRun.get(id) ?? []);
  }, this.options);
  readonly totals = new DataLoader<string, number>(async (ids) => {
    const found = await rows<Row & { id: string; n: string }>(
      'totals',
      `select a.id, count(*) n from application a join deployment d on d.application_id = a.id
       where a.id = any($1::uuid[]) and a.workspace_id = $2 group by 1`,
      [ids, this.actor.workspaceId],
    );
    const byId = new Map(found.map(({ id, n }) => [id, Number(n)]));
    return ids.map((id) => byId.get(id) ?? 0);
  });

  async workspaceBySlug(slug: string): Promise<Row | null> {
    const found = await rows('slug', `select ${workspaceColumns} from workspace where slug = $1 and id = $2`, [
      slug,
      this.actor.workspaceId,
    ]);
    return found[0] ?? null;
  }

  async applicationsOf(workspaceId: string, first: number): Promise<Row[]> {
    return rows(
      'applications',
      `select ${applicationColumns} from application a where workspace_id = $1 and workspace_id = $3
         and not exists (select 1 from preview p where p.application_id = a.id)
       order by created_at desc, id desc limit $2`,
      [workspaceId, first, this.actor.workspaceId],
    );
  }

  readonly #pages = new Map<string, DataLoader<string, DeploymentRow[]>>();
  /** One more than asked for tells whether there is a next page. */
  deploymentsOf(applicationId: string, first: number, after: string | null): Promise<DeploymentRow[]> {
    const key = `${first} ${after}`;
    let loader = this.#pages.get(key);
    if (!loader) {
      loader = new DataLoader<string, DeploymentRow[]>(async (ids) => {
        const found = await rows<DeploymentRow>(
          'pages',
          `select ${deploymentColumns} from unnest($1::uuid[]) a(id) cross join lateral (
             select id from deployment where application_id = a.id and id < $3::uuid order by id desc limit $2
           ) p join deployment d on d.id = p.id join run r on r.id = p.id and r.workspace_id = $4 order by p.id desc`,
          [ids, first + 1, after ?? 'ffffffff-ffff-ffff-ffff-ffffffffffff', this.actor.workspaceId],
        );
        const byApplication = Map.groupBy(found, (row) => row.applicationId);
        return ids.map((id) => byApplication.get(id) ?? []);
      });
      this.#pages.set(key, loader);
    }
    return loader.load(applicationId);
  }

  /** In one transaction: look, refuse, write. */
  async deploy(applicationId: string, ref: string | null): Promise<DeploymentRow | 'NotFound' | 'Forbidden'> {
    const { userId, workspaceId, role } = this.actor;
    const client = await pool.connect();
    const query = async <R extends Row>(name: string, text: string, values: readonly unknown[]) =>
      (await client.query<R>({ name, text, values: [...values] })).rows;
    try {
      await client.query('begin');
      const [application] = await query<Row & { workspace_id: string; branch: string }>(
        'lock',
        'select workspace_id, branch, host_id from application where id = $1 for update',
        [applicationId],
      );
      const refused = application?.workspace_id !== workspaceId ? 'NotFound' : role === 'VIEWER' ? 'Forbidden' : null;
      if (refused || !application) {
        await client.query('rollback');
        return refused ?? 'NotFound';
      }
      // Older ones that have not begun would be ended here; see `bench_begun`.
      // In the words of the server's own index: by the status alone all that wait would be read.
      await query(
        'waiting',
        `select id from run where lock_key = 'application:' || $1::text and status::text = 'QUEUED' and attempt = 0
           and coalesce(completed_at, 'infinity'::timestamptz) = 'infinity'::timestamptz`,
        [applicationId],
      );
      const [made] = await query<DeploymentRow>('deploy', deploy, [applicationId, ref ?? application.branch, userId]);
      await client.query('commit');
      if (!made) throw new Error('Nothing was written');
      return made;
    } catch (error) {
      await client.query('rollback');
      throw error;
    } finally {
      client.release();
    }
  }
}

const deploy = deploySql({
  application: '$1::uuid',
  ref: '$2::text',
  actor: '$3::uuid',
  where: 'true',
  select: `select ${deploymentColumns} from r join d on d.id = r.id`,
});
