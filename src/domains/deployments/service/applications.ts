import { Prisma, type Application } from '#prisma';
import { required, service } from '#kernel/app.ts';
import type { Actor } from '#kernel/auth/actor.ts';
import { authorize, authorizeRow } from '#kernel/auth/policy.ts';
import type { Appended, Transaction } from '#kernel/db/transact.ts';
import { Conflict, NotFound, ValidationError, type Issue } from '#kernel/errors.ts';
import { isId, newId } from '#kernel/ids.ts';
import { parse } from '#kernel/input.ts';
import { validateRef, validateRepositoryUrl, type GitProtocol } from '../../../integrations/git/index.ts';
import { validateEnvironment } from '../../../integrations/process/index.ts';
import { addUsualRules } from './alerts.ts';
import { applicationCreated, applicationStopped } from '../events.ts';
import { NewApplication } from '../model.ts';
import { can } from '../policy.ts';

/** What the operator of this server allows. */
export interface DeploymentSettings {
  readonly gitProtocols: readonly GitProtocol[];
  /** Stable addresses of applications: no other port is ever one. */
  readonly addressPorts: { readonly from: number; readonly to: number };
  /** The most that an application may be given. */
  readonly maxMemoryMb: number;
  readonly maxMilliCpus: number;
}
export const DeploymentSettings = required<DeploymentSettings>('deployment settings');

export interface Written {
  readonly id: string;
  readonly workspaceId: string;
  readonly event: Appended | null;
}

/** The writer of application, beside the switch of its release. */
export const Applications = service('applications', (app) => ({
  /** @throws {ValidationError} {Unauthenticated} {NotFound} {Forbidden} {Conflict} */
  async create(actor: Actor, raw: unknown): Promise<Written> {
    const input = parse(NewApplication, raw);
    authorize(actor, can.createApplication, input.workspaceId);
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
            environment: input.environment,
            driver: input.driver ?? null,
            memoryMb: input.memoryMb ?? null,
            milliCpus,
            port: input.port ?? null,
            portAsked: input.port != null,
          },
        });
        await addUsualRules(tx, input.workspaceId, id);
        const event = tx.append({ type: applicationCreated, workspaceId: input.workspaceId, subjectId: id });
        return { id, workspaceId: input.workspaceId, event };
      });
    } catch (error) {
      if (isTaken(error)) throw new Conflict(`There is an application ${input.name} in this workspace already.`);
      throw error;
    }
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

/** The row, locked until the end of the transaction: what serves changes under this lock only. */
export async function lockApplication(tx: Transaction, id: string): Promise<Application | null> {
  await tx.db.$queryRaw`select 1 from application where id = ${id}::uuid for update`;
  return tx.db.application.findUnique({ where: { id } });
}

/** @throws {ValidationError} naming every field that has a complaint */
export function refuse(complaints: readonly (readonly [path: string, message: string | null])[]): void {
  const issues: Issue[] = complaints.flatMap(([path, message]) => (message === null ? [] : [{ path, message }]));
  if (issues.length > 0) throw new ValidationError(issues);
}

/** Whether a unique index refused a row. */
export const isTaken = (error: unknown): boolean =>
  error instanceof Prisma.PrismaClientKnownRequestError && error.code === 'P2002';
