import { Prisma, type Release, type Run, type RunTrigger } from '#prisma';
import { service } from '#kernel/app.ts';
import type { Actor } from '#kernel/auth/actor.ts';
import { authorizeRow } from '#kernel/auth/policy.ts';
import type { Appended, Transaction } from '#kernel/db/transact.ts';
import { Conflict, NotFound } from '#kernel/errors.ts';
import { columnsOf } from '#kernel/db/connection.ts';
import { isId, newId } from '#kernel/ids.ts';
import { parse } from '#kernel/input.ts';
import { lostAfterS } from '#kernel/runs/host.ts';
import { notBegun, Runs } from '#kernel/runs/runs.ts';
import { validateRef } from '../../../integrations/git/index.ts';
import { NoFreeUser, userCount } from '../../../integrations/process/index.ts';
import { DriverNotOffered, NoHost, NothingToRestore } from '../errors.ts';
import { NewDeployment, NewRollback, type DeploymentInput } from '../model.ts';
import { can } from '../policy.ts';
import { deploymentKind } from './kind.ts';
import { isTaken, lockApplication, refuse } from './applications.ts';

/** A commit that another system says is to be deployed. */
export interface Push {
  readonly applicationId: string;
  /** Full commit id. */
  readonly commitSha: string;
  /** Why it is not deployed, decided under the application's lock; null: it is. */
  readonly refusal: (tx: Transaction, application: Application) => Promise<string | null>;
  /** Writes down, in the same transaction, what came of it. */
  readonly made: (tx: Transaction, deploymentId: string) => Promise<void>;
}

export interface Requested {
  readonly id: string;
  readonly workspaceId: string;
  readonly event: Appended | null;
  /** Where it is new. */
  readonly run?: Run;
}

/** Asks for deployments; the run does them. */
export const Deployments = service('deployments', (app) => {
  const request = async (
    actor: Actor,
    verb: 'createDeployment' | 'rollbackDeployment',
    input: { readonly applicationId: string; readonly idempotencyKey?: string | null | undefined },
    inputOf: (tx: Transaction, application: Deployable) => DeploymentInput | Promise<DeploymentInput>,
    trigger: RunTrigger = 'API',
  ): Promise<Requested> => {
    const id = input.applicationId;
    if (!isId(id)) throw new NotFound('Application', id);
    return app.transact(actor, async (tx) => {
      // Locked, so that of two that come at once the later one supersedes the earlier one. What depends on it is looked
      // up behind the lock, in the same round trip.
      const [application, waiting] = await Promise.all([lockDeployable(tx, id), waitingOf(tx, id)]);
      authorizeRow(actor, can[verb], application, 'Application', id);
      const host = await hostOf(tx, application);
      const { workspaceId } = application;
      if (application.removalAskedAt) throw new Conflict('The application is being deleted.');
      const { idempotencyKey, ...rest } = input;
      const started = await app
        .use(Runs)
        .once(tx, { workspaceId, mutation: verb, key: idempotencyKey, input: rest }, async (runId) =>
          start(tx, application, await inputOf(tx, application), trigger, { host, waiting }, runId),
        );
      return { ...started, workspaceId };
    });
  };

  /** Queues the run, for an application whose row is locked. */
  const start = async (
    tx: Transaction,
    application: Deployable,
    input: DeploymentInput,
    trigger: RunTrigger,
    { host, waiting }: Found,
    runId: string,
  ) => {
    const { id, workspaceId, driver } = application;
    if (host && driver && !offers(host.drivers, driver)) throw new DriverNotOffered(driver);
    // A host that is away is waited for.
    const hostId = host?.id ?? (await place(tx, application));
    // Deployments that have not begun give way to a newer one.
    for (const run of waiting)
      await app
        .use(Runs)
        .end(tx, run, { phase: 'SUPERSEDED', reason: 'A newer deployment of the application was asked for.' });
    const lockKey = lockKeyOf(id);
    return app.use(Runs).create(tx, { id: runId, kind: deploymentKind, workspaceId, input, lockKey, hostId, trigger });
  };

  /**
   * Puts an application on the live host with the fewest that has its driver, with a user of its own there. It stays
   * there, and with that driver: without a wish it is Docker where there is one.
   * @throws {NoHost} {DriverNotOffered} {NoFreeUser} {Conflict}
   */
  const place = async (tx: Transaction, { id, driver: wanted }: Deployable): Promise<string> => {
    const hosts = await tx.db.$queryRaw<{ id: string; drivers: string[] }[]>`
      select h.id, h.drivers from host h left join application a on a.host_id = h.id
      where h.last_seen_at > now() - make_interval(secs => ${lostAfterS}::int) group by h.id order by count(a.id), h.id`;
    if (hosts.length === 0) throw new NoHost();
    const choices = wanted ? [wanted] : (['DOCKER', 'PROCESS'] as const);
    const found = choices.flatMap((driver) =>
      hosts.filter(({ drivers }) => offers(drivers, driver)).map((host) => ({ ...host, driver })),
    );
    const [host] = found;
    if (!host) throw new DriverNotOffered(choices.join(' or '));
    // One at a time for each host: what two would find free at once is decided here.
    await tx.db.$queryRaw`select 1 from host where id = ${host.id}::uuid for update`;
    const [free] = await tx.db.$queryRaw<{ slot: number }[]>`
      select slot from generate_series(0, ${userCount - 1}::int) slot
      where not exists (select 1 from application a where a.host_id = ${host.id}::uuid and a.user_slot = slot)
      order by slot limit 1`;
    if (!free) throw new NoFreeUser();
    try {
      await tx.db.application.update({
        where: { id },
        data: { hostId: host.id, userSlot: free.slot, driver: host.driver },
      });
    } catch (error) {
      if (isTaken(error)) throw new Conflict("Another application of the host has the application's port.");
      throw error;
    }
    return host.id;
  };

  return {
    /**
     * Queues a deployment of one commit in the caller's transaction, which has locked the application and authorized.
     * @throws {NoHost} {DriverNotOffered} {NoFreeUser} {Conflict}
     */
    async startWithin(tx: Transaction, application: Application, ref: string): Promise<{ readonly id: string }> {
      const input = { kind: 'BUILD', applicationId: application.id, ref } as const;
      return start(tx, application, input, 'WEBHOOK', await lookUp(tx, application.id), newId());
    },

    /**
     * Queues a deployment of a branch or commit. Older ones of the application that have not begun are superseded.
     * @throws {ValidationError} {NotFound} {Forbidden} {IdempotencyConflict} {NoHost} {DriverNotOffered} {NoFreeUser} {Conflict}
     */
    async create(actor: Actor, raw: unknown): Promise<Requested> {
      const input = parse(NewDeployment, raw);
      if (input.ref) refuse([['ref', validateRef(input.ref)]]);
      return request(actor, 'createDeployment', input, async (_tx, application) => ({
        kind: 'BUILD',
        applicationId: application.id,
        ref: input.ref ?? application.branch,
      }));
    },

    /**
     * Queues a deployment of one commit, as `create` does it; or tells why not.
     * @throws {NotFound} {Forbidden} {NoHost} {DriverNotOffered} {NoFreeUser} {Conflict}
     */
    async push(actor: Actor, push: Push): Promise<{ readonly id: string } | { readonly refused: string }> {
      const { applicationId, commitSha: ref } = push;
      return app.transact(actor, async (tx) => {
        const application = await lockApplication(tx, applicationId);
        authorizeRow(actor, can.createDeployment, application, 'Application', applicationId);
        const refused = await push.refusal(tx, application);
        if (refused !== null) return { refused };
        const input = { kind: 'BUILD', applicationId, ref } as const;
        const { id } = await start(tx, application, input, 'WEBHOOK', await lookUp(tx, applicationId), newId());
        await push.made(tx, id);
        return { id };
      });
    },

    /**
     * Queues a deployment that brings back a former release, exactly as it was built: the given one, or the one that
     * served before the one that serves.
     * @throws {ValidationError} {NotFound} {Forbidden} {IdempotencyConflict} {NothingToRestore} {NoHost}
     *   {DriverNotOffered} {NoFreeUser}
     */
    async rollback(actor: Actor, raw: unknown): Promise<Requested> {
      const input = parse(NewRollback, raw);
      return request(
        actor,
        'rollbackDeployment',
        input,
        async (tx, application) => {
          if (input.releaseId && !isId(input.releaseId)) throw new NotFound('Release', input.releaseId);
          const release = input.releaseId
            ? await tx.db.release.findFirst({ where: { id: input.releaseId, applicationId: application.id } })
            : await tx.db.release.findFirst({
                where: { applicationId: application.id, status: 'RETIRED', activatedAt: { not: null }, prunedAt: null },
                orderBy: { retiredAt: 'desc' },
              });
          if (input.releaseId && !release) throw new NotFound('Release', input.releaseId);
          if (!release) throw new NothingToRestore('No release served before the present one.');
          const problem = refusalOfRestore(application, release);
          if (problem !== null) throw new NothingToRestore(problem);
          return {
            kind: 'RESTORE',
            applicationId: application.id,
            releaseId: release.id,
            environment: input.environment ?? 'RELEASE',
          };
        },
        'ROLLBACK',
      );
    },
  };
});

const lockKeyOf = (applicationId: string): string => `application:${applicationId}`;

/** What a new deployment of an application depends on. */
interface Found {
  /** Null: the application is on none yet. */
  readonly host: { readonly id: string; readonly drivers: readonly string[] } | null;
  /** Its deployments that have not begun, locked. */
  readonly waiting: readonly Run[];
}

/** An application that is locked, as far as it matters to a deployment. */
type Deployable = Pick<
  Application,
  'id' | 'workspaceId' | 'branch' | 'driver' | 'hostId' | 'activeReleaseId' | 'removalAskedAt'
>;
interface DeployableRow extends Deployable {
  /** Of its host as it was before the lock was waited for; null: it had none. */
  readonly drivers: readonly string[] | null;
}

const deployableText = `
  select a.id, a.workspace_id, a.branch, a.driver, a.host_id, a.active_release_id, a.removal_asked_at, h.drivers
  from application a left join host h on h.id = a.host_id where a.id = $1 for update of a`;
const hostText = 'select h.id, h.drivers from application a join host h on h.id = a.host_id where a.id = $1';
const waitingText = `
  select ${columnsOf(Prisma.RunScalarFieldEnum)} from run
  where ${notBegun} and kind = $2 and phase = 'PENDING' order by id for update`;

/** The row with its host, locked until the end of the transaction. */
async function lockDeployable(tx: Transaction, id: string): Promise<DeployableRow | null> {
  const [application] = await tx.sql<DeployableRow>(deployableText, [id]);
  return application ?? null;
}

/** Its host; one that it was given while its lock was waited for is looked up. */
async function hostOf(tx: Transaction, { id, hostId, drivers }: DeployableRow): Promise<Found['host']> {
  if (hostId === null) return null;
  return drivers ? { id: hostId, drivers } : lookUpHost(tx, id);
}

async function lookUpHost(tx: Transaction, applicationId: string): Promise<Found['host']> {
  const [host] = await tx.sql<NonNullable<Found['host']>>(hostText, [applicationId]);
  return host ?? null;
}

/** In the same round trip as its lock, behind it. */
const waitingOf = (tx: Transaction, applicationId: string): Promise<Run[]> =>
  tx.sql<Run>(waitingText, [lockKeyOf(applicationId), deploymentKind.name]);

/** For an application whose row is locked before it. */
async function lookUp(tx: Transaction, applicationId: string): Promise<Found> {
  const [host, waiting] = await Promise.all([lookUpHost(tx, applicationId), waitingOf(tx, applicationId)]);
  return { host, waiting };
}

/** Why a release cannot be brought back, as a sentence; null: it can. */
export function refusalOfRestore(
  application: Pick<Application, 'activeReleaseId' | 'removalAskedAt'>,
  release: Pick<Release, 'id' | 'prunedAt' | 'activatedAt'>,
): string | null {
  if (application.removalAskedAt) return 'The application is being deleted.';
  if (release.prunedAt) return 'The files of this release were removed.';
  if (!release.activatedAt) return 'This release never became healthy.';
  if (release.id === application.activeReleaseId) return 'This release serves already.';
  return null;
}

/** A worker of the version before says nothing: it has processes. */
const offers = (drivers: readonly string[], driver: string): boolean =>
  drivers.length === 0 ? driver === 'PROCESS' : drivers.includes(driver);

type Application = NonNullable<Awaited<ReturnType<typeof lockApplication>>>;
