import { Prisma, type Application } from '#prisma';
import { service } from '#kernel/app.ts';
import type { Actor } from '#kernel/auth/actor.ts';
import { authorize, authorizeRow } from '#kernel/auth/policy.ts';
import type { Transaction } from '#kernel/db/transact.ts';
import { Conflict, NotFound } from '#kernel/errors.ts';
import { isId, newId } from '#kernel/ids.ts';
import { parse } from '#kernel/input.ts';
import { validateRef, validateRepositoryUrl } from '../../../integrations/git/index.ts';
import { validateEnvironment } from '../../../integrations/process/index.ts';
import { QuotaExceeded } from '../errors.ts';
import { applicationAutoDeploySet, applicationCreated, applicationStopped, applicationUpdated } from '../events.ts';
import { AutoDeploy, ChangedApplication, NewApplication, urlKey } from '../model.ts';
import { addUsualRules } from './alerts.ts';
import { can } from '../policy.ts';
import { Environments, type Change } from './environment.ts';
import { sourceWatchers } from './ports.ts';
import { endServing } from './serving.ts';
import { Quotas } from './quotas.ts';
import { DeploymentSettings, lockApplication, refuse, type Written } from './shared.ts';

export { DeploymentSettings, lockApplication, refuse, type Written };

/** The writer of application, beside the switch of its release. */
export const Applications = service('applications', (app) => ({
  /** @throws {ValidationError} {Unauthenticated} {NotFound} {Forbidden} {Conflict} {QuotaExceeded} */
  async create(actor: Actor, raw: unknown): Promise<Written> {
    const input = parse(NewApplication, raw);
    authorize(actor, can.createApplication, input.workspaceId);
    authorizeChanges(actor, input.environment, input.workspaceId);
    const { addressPorts, maxMemoryMb, maxMilliCpus } = app.use(DeploymentSettings);
    const milliCpus = input.cpus == null ? null : Math.round(input.cpus * 1000);
    refuse([
      [
        'port',
        input.port == null || isAddressPort(addressPorts, input.port)
          ? null
          : `must be from ${addressPorts.from} to ${addressPorts.to}: those are for addresses of applications`,
      ],
      ['repositoryUrl', validateRepositoryUrl(input.repositoryUrl, app.use(DeploymentSettings).gitProtocols)],
      ['branch', validateRef(input.branch)],
      ['environment', validateEnvironment(input.environment)],
      ['memoryMb', (input.memoryMb ?? 0) > maxMemoryMb ? `must be at most ${maxMemoryMb}` : null],
      ['cpus', (milliCpus ?? 0) > maxMilliCpus ? `must be at most ${maxMilliCpus / 1000}` : null],
    ]);
    try {
      return await app.transact(actor, async (tx) => {
        await app.use(Quotas).requireRoom(tx, input.workspaceId);
        const { id } = await tx.db.application.create({
          data: {
            id: newId(),
            workspaceId: input.workspaceId,
            name: input.name,
            repositoryUrl: input.repositoryUrl,
            branch: input.branch,
            buildCommand: input.buildCommand ?? null,
            startCommand: input.startCommand ?? null,
            healthCheckPath: input.healthCheckPath,
            healthTimeoutS: input.healthTimeoutS,
            driver: input.driver ?? null,
            memoryMb: input.memoryMb ?? null,
            milliCpus,
            port: input.port ?? null,
            portAsked: input.port != null,
          },
        });
        await addUsualRules(tx, input.workspaceId, id);
        const event = tx.append({ type: applicationCreated, workspaceId: input.workspaceId, subjectId: id });
        await app
          .use(Environments)
          .change(
            tx,
            { id, workspaceId: input.workspaceId, environmentVersion: 0 },
            new Map(Object.entries(input.environment).map(([name, value]) => [name, { value, sensitive: true }])),
            'environment',
          );
        return { id, workspaceId: input.workspaceId, event };
      });
    } catch (error) {
      if (isTaken(error)) throw new Conflict(`There is an application ${input.name} in this workspace already.`);
      throw error;
    }
  },

  /**
   * Changes settings, for deployments from now on; what runs keeps what it has.
   * @throws {ValidationError} {Unauthenticated} {NotFound} {Forbidden} {Conflict} {QuotaExceeded}
   */
  async update(actor: Actor, raw: unknown): Promise<Written> {
    const input = parse(ChangedApplication, raw);
    const { id } = input;
    if (!isId(id)) throw new NotFound('Application', id);
    const { gitProtocols, maxMemoryMb, maxMilliCpus } = app.use(DeploymentSettings);
    const milliCpus = input.cpus == null ? input.cpus : Math.round(input.cpus * 1000);
    const { name, repositoryUrl, branch, environment, memoryMb } = input;
    try {
      return await app.transact(actor, async (tx) => {
        const application = await lockApplication(tx, id);
        authorizeRow(actor, can.updateApplication, application, 'Application', id);
        authorizeChanges(actor, environment ?? {}, application.workspaceId);
        if (application.removalAskedAt) throw new Conflict('The application is being deleted.');
        if ((await tx.db.preview.count({ where: { applicationId: id } })) > 0)
          throw new Conflict('A preview has the settings of the application that it is of.');
        const { retainedReleases } = await app.use(Quotas).of(tx.db, application.workspaceId);
        if ((input.retainedReleases ?? 0) > retainedReleases)
          throw new QuotaExceeded('RETAINED_RELEASES', retainedReleases, input.retainedReleases ?? 0);
        refuse([
          ['repositoryUrl', repositoryUrl == null ? null : validateRepositoryUrl(repositoryUrl, gitProtocols)],
          ['branch', branch == null ? null : validateRef(branch)],
          ['memoryMb', (memoryMb ?? 0) > maxMemoryMb ? `must be at most ${maxMemoryMb}` : null],
          ['cpus', (milliCpus ?? 0) > maxMilliCpus ? `must be at most ${maxMilliCpus / 1000}` : null],
        ]);
        await tx.db.application.update({
          where: { id },
          data: {
            ...given({
              name,
              repositoryUrl,
              branch,
              healthCheckPath: input.healthCheckPath,
              healthTimeoutS: input.healthTimeoutS,
              crashLoopRestarts: input.crashLoopRestarts,
              crashLoopWindowS: input.crashLoopWindowS,
            }),
            ...(input.buildCommand === undefined ? {} : { buildCommand: input.buildCommand }),
            ...(input.startCommand === undefined ? {} : { startCommand: input.startCommand }),
            ...(memoryMb === undefined ? {} : { memoryMb }),
            ...(milliCpus === undefined ? {} : { milliCpus }),
            ...(input.retainedReleases === undefined ? {} : { retainedReleases: input.retainedReleases }),
          },
        });
        if (isElsewhere(application, { repositoryUrl, branch }))
          for (const watcher of sourceWatchers) await watcher(app, tx, id);
        const { workspaceId } = application;
        const event = tx.append({ type: applicationUpdated, workspaceId, subjectId: id });
        const changes = Object.entries(environment ?? {}).map(([key, value]): [string, Change] => [
          key,
          value === null ? null : { value, sensitive: true },
        ]);
        const changed = await app.use(Environments).change(tx, application, new Map(changes), 'environment');
        return { id, workspaceId, event: changed.event ?? event };
      });
    } catch (error) {
      if (isTaken(error)) throw new Conflict(`There is an application ${name} in this workspace already.`);
      throw error;
    }
  },

  /** Whether pushes to its branch deploy it. @throws {ValidationError} {NotFound} {Forbidden} */
  async setAutoDeploy(actor: Actor, raw: unknown): Promise<Written> {
    const { id, autoDeploy } = parse(AutoDeploy, raw);
    if (!isId(id)) throw new NotFound('Application', id);
    return app.transact(actor, async (tx) => {
      const application = await lockApplication(tx, id);
      authorizeRow(actor, can.setAutoDeploy, application, 'Application', id);
      const { workspaceId } = application;
      if (application.autoDeploy === autoDeploy) return { id, workspaceId, event: null };
      await tx.db.application.update({ where: { id }, data: { autoDeploy } });
      const event = tx.append({ type: applicationAutoDeploySet, workspaceId, subjectId: id, data: { autoDeploy } });
      return { id, workspaceId, event };
    });
  },

  /** Takes an application off its address. Its releases stay and can be restored. @throws {NotFound} {Forbidden} */
  async stop(actor: Actor, id: string): Promise<Written> {
    if (!isId(id)) throw new NotFound('Application', id);
    return app.transact(actor, async (tx) => {
      const application = await lockApplication(tx, id);
      authorizeRow(actor, can.stopApplication, application, 'Application', id);
      const { activeReleaseId, workspaceId } = application;
      if (!activeReleaseId) return { id, workspaceId, event: null };
      await tx.db.application.update({
        where: { id },
        data: { activeReleaseId: null, routeVersion: { increment: 1 } },
      });
      await tx.db.release.update({
        where: { id: activeReleaseId },
        data: { status: 'RETIRED', retiredAt: new Date() },
      });
      await endServing(tx, id, new Date());
      const event = tx.append({
        type: applicationStopped,
        workspaceId,
        subjectId: id,
        data: { releaseId: activeReleaseId },
      });
      notifyHost(app.wakeUps.publish.bind(app.wakeUps), tx, application.hostId);
      return { id, workspaceId, event };
    });
  },
}));

/** A key is for variables only when it is for the mutations that are for them. @throws {Forbidden} */
export function authorizeChanges(
  actor: Actor,
  environment: Readonly<Record<string, string | null>>,
  workspaceId: string,
) {
  const values = Object.values(environment);
  if (values.some((value) => value !== null)) authorize(actor, can.setEnvironmentVariables, workspaceId);
  if (values.includes(null)) authorize(actor, can.unsetEnvironmentVariables, workspaceId);
}

/** Whether a change leads to another repository, however it is written, or another branch. */
function isElsewhere(
  now: Pick<Application, 'repositoryUrl' | 'branch'>,
  {
    repositoryUrl,
    branch,
  }: { readonly repositoryUrl: string | null | undefined; readonly branch: string | null | undefined },
): boolean {
  const same = (one: string, other: string): boolean =>
    one === other || (urlKey(one) !== null && urlKey(one) === urlKey(other));
  return !same(repositoryUrl ?? now.repositoryUrl, now.repositoryUrl) || (branch ?? now.branch) !== now.branch;
}

/** Those that are neither absent nor null. */
function given<T extends object>(values: T): { [K in keyof T]?: NonNullable<T[K]> } {
  return Object.fromEntries(Object.entries(values).filter(([, value]) => value != null)) as never;
}

/** Whether an application may have its address there: the proxy would take any other port away from its program. */
export const isAddressPort = ({ from, to }: DeploymentSettings['addressPorts'], port: number): boolean =>
  port >= from && port <= to;

/** Its user on its host. @throws Error when it has not been placed on one */
export function userSlotOf({ id, userSlot }: Pick<Application, 'id' | 'userSlot'>): number {
  if (userSlot === null) throw new Error(`The application ${id} has no user: it is on no host.`);
  return userSlot;
}

/** Tells the agent of a host, after the commit, that it has something to do. */
export function notifyHost(publish: (key: string) => void, tx: Transaction, hostId: string | null): void {
  if (hostId) tx.afterCommit(() => publish(`h:${hostId}`));
}

/** Whether a unique index refused a row. */
export const isTaken = (error: unknown): boolean =>
  error instanceof Prisma.PrismaClientKnownRequestError && error.code === 'P2002';
