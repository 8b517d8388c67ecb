import { z } from 'zod';
import type { ConnectedRepository, Prisma, WebhookDelivery, WebhookDeliveryStatus } from '#prisma';
import { service, type App } from '#kernel/app.ts';
import { anonymous, system, type Actor } from '#kernel/auth/actor.ts';
import { instanceWorkspaceId } from '#kernel/auth/instance.ts';
import { authorizeRow } from '#kernel/auth/policy.ts';
import type { Appended, Transaction } from '#kernel/db/transact.ts';
import { Conflict, DomainError, NotFound } from '#kernel/errors.ts';
import { isId, newId } from '#kernel/ids.ts';
import { parse } from '#kernel/input.ts';
import { defineJob } from '#kernel/jobs/define.ts';
import { defineRetention } from '#kernel/jobs/retention.ts';
import { Deployments, Previews, urlKey, type Pull } from '../../deployments/index.ts';
import { webhookRedelivered } from '../events.ts';
import { branchOf, Envelope, handledEvents, PullRequestEvent, PushEvent, Redelivery } from '../model.ts';
import { can } from '../policy.ts';
import { RepositorySettings } from './settings.ts';

/** A message whose signature is good. */
export interface Arrival {
  /** Whose secret signed it; null: the server's own, of its GitHub App. */
  readonly trusted: ConnectedRepository | null;
  readonly guid: string;
  readonly event: string;
  readonly body: string;
  /** The body, parsed: an object. */
  readonly payload: object;
}

const Task = z.object({
  workspaceId: z.string(),
  deliveryId: z.string(),
  /** Of each there is one effect on an application at most. */
  requestId: z.string(),
  /** FIRST: what has an effect has had it. AGAIN: unless the effect failed. FORCE: in any case. */
  mode: z.enum(['FIRST', 'AGAIN', 'FORCE']),
});
type Task = z.infer<typeof Task>;

interface Outcome {
  readonly status: Extract<WebhookDeliveryStatus, 'PROCESSED' | 'IGNORED'>;
  readonly reason: string | null;
}
const ignored = (reason: string): Outcome => ({ status: 'IGNORED', reason });

/** What came of it in several applications; a reason: nothing, in that one. */
function outcomeOf(reasons: readonly (string | null)[]): Outcome {
  const given = reasons.filter((one) => one !== null);
  const reason = [...new Set(given)].join(' ').slice(0, 500) || null;
  return given.length === reasons.length && reason !== null ? ignored(reason) : { status: 'PROCESSED', reason };
}

/** Runs that ended without a success. */
const unsuccessful: ReadonlySet<string> = new Set(['FAILED', 'CANCELED', 'TIMED_OUT']);

/** Most deliveries that one statement changes: each may have 25 MB. */
const batch = 500;
interface Batch {
  readonly id: { in: string[] };
}

/** What GitHub may do in a workspace that trusts it: deploy, and nothing else. */
const gitHubIn = (workspaceId: string): Actor => ({
  ...anonymous,
  kind: 'MACHINE',
  roles: new Map([[workspaceId, 'MEMBER']]),
  scopes: new Set(['deployments.createDeployment']),
});

/** Messages of GitHub. The only writer of webhook_delivery and push_deployment. */
export const Deliveries = service('webhook deliveries', (app) => {
  /** Connections that a message of the GitHub App concerns: of this repository, by this installation. */
  const concerned = async ({ repository, installation }: Envelope): Promise<ConnectedRepository[]> =>
    repository && installation
      ? app.db.connectedRepository.findMany({
          where: {
            githubId: BigInt(repository.id),
            installationId: BigInt(installation.id),
            workspace: { deletedAt: null },
          },
          orderBy: { id: 'asc' },
        })
      : [];

  const enqueue = (
    tx: Transaction,
    { id, workspaceId }: Pick<WebhookDelivery, 'id' | 'workspaceId'>,
    mode: Task['mode'],
  ) =>
    app.jobs.enqueue(tx, processJob, {
      workspaceId,
      deliveryId: id,
      requestId: mode === 'FIRST' ? id : newId(),
      mode,
    });

  /** What a push does to one application. Null: it is being deployed; else why not. */
  const deploy = async (
    delivery: WebhookDelivery,
    { requestId, mode }: Task,
    of: { readonly applicationId: string; readonly key: string; readonly branch: string; readonly commitSha: string },
  ): Promise<string | null> => {
    const { applicationId, commitSha } = of;
    const { id: deliveryId, createdAt: receivedAt } = delivery;
    const where = { deliveryId_applicationId: { deliveryId, applicationId } };
    const result = await app.use(Deployments).push(gitHubIn(delivery.workspaceId), {
      applicationId,
      commitSha,
      async refusal(tx, application) {
        const same = application.branch === of.branch && urlKey(application.repositoryUrl) === of.key;
        if (!same || application.removalAskedAt) return 'The application deploys something else now.';
        if (!application.autoDeploy) return 'Pushes do not deploy the application.';
        const effect = await tx.db.pushDeployment.findUnique({
          where,
          include: { deployment: { select: { run: { select: { status: true } } } } },
        });
        const stands =
          effect &&
          (mode === 'FIRST' ||
            effect.requestId === requestId ||
            (mode === 'AGAIN' && !unsuccessful.has(effect.deployment.run.status)));
        if (stands) return 'It was deployed already.';
        const newer = { applicationId, receivedAt: { gt: receivedAt } };
        if (mode !== 'FORCE' && (await tx.db.pushDeployment.count({ where: newer })) > 0)
          return 'A newer push was deployed already.';
        return null;
      },
      async made(tx, deploymentId) {
        const effect = { deploymentId, requestId, receivedAt };
        await tx.db.pushDeployment.upsert({
          where,
          create: { deliveryId, applicationId, ...effect },
          update: effect,
        });
      },
    });
    return 'refused' in result ? result.refused : null;
  };

  /** What an event of a pull request does: it concerns every application that has previews of it, or may get one. */
  const follow = async (
    { workspaceId }: WebhookDelivery,
    { mode }: Task,
    repository: ConnectedRepository,
    payload: unknown,
  ): Promise<Outcome> => {
    const event = PullRequestEvent.safeParse(payload);
    if (!event.success) return ignored('It is no pull request as GitHub sends them.');
    const { before, pull_request: of, repository: at } = event.data;
    const { githubId, urlKey: key } = repository;
    if (BigInt(at.id) !== githubId || of.base.repo.id !== at.id) return ignored('It is of another repository.');
    const pull: Pull = {
      githubId,
      number: of.number,
      title: of.title,
      isOpen: of.state === 'open',
      headSha: of.head.sha,
      headBefore: before ?? null,
      headRef: of.head.ref,
      baseRef: of.base.ref,
      isFork: of.head.repo?.id !== at.id,
      updatedAt: new Date(of.updated_at),
    };
    const known = { some: { githubId, number: pull.number } };
    const candidates = await app.db.application.findMany({
      where: {
        workspaceId,
        removalAskedAt: null,
        workspace: { deletedAt: null },
        OR: [{ previewPolicy: { isNot: null } }, { previews: known }],
      },
      select: { id: true, repositoryUrl: true, previews: { where: known.some, select: { id: true } } },
      orderBy: { id: 'asc' },
    });
    const concerned = candidates.filter(
      ({ repositoryUrl, previews }) => previews.length > 0 || urlKey(repositoryUrl) === key,
    );
    if (concerned.length === 0) return ignored('No application has previews of this repository.');
    const reasons: (string | null)[] = [];
    for (const { id } of concerned)
      reasons.push(
        await app.use(Previews).told(gitHubIn(workspaceId), id, pull, {
          concerns: ({ repositoryUrl, branch }) => urlKey(repositoryUrl) === key && branch === pull.baseRef,
          again: mode !== 'FIRST',
        }),
      );
    return outcomeOf(reasons);
  };

  const act = async (
    delivery: WebhookDelivery & { repository: ConnectedRepository | null },
    task: Task,
  ): Promise<Outcome> => {
    const { repository, workspaceId } = delivery;
    if (!repository) return ignored('The repository is connected no more.');
    if (delivery.payload === null) return ignored('Its body is kept no more.');
    const payload: unknown = JSON.parse(delivery.payload);
    if (delivery.event === 'pull_request') return follow(delivery, task, repository, payload);
    const push = PushEvent.safeParse(payload);
    if (!push.success) return ignored('It is no push as GitHub sends them.');
    if (BigInt(push.data.repository.id) !== repository.githubId)
      return ignored(push.data.repository.fork ? 'It is of a fork.' : 'It is of another repository.');
    const where = branchOf(push.data);
    if ('ignored' in where) return ignored(where.ignored);
    const { branch } = where;
    const candidates = await app.db.application.findMany({
      where: { workspaceId, branch, removalAskedAt: null, preview: { is: null }, workspace: { deletedAt: null } },
      select: { id: true, repositoryUrl: true },
      orderBy: { id: 'asc' },
    });
    const applications = candidates.filter(({ repositoryUrl }) => urlKey(repositoryUrl) === repository.urlKey);
    if (applications.length === 0) return ignored('No application deploys this branch.');
    const refusals: (string | null)[] = [];
    for (const { id: applicationId } of applications) {
      refusals.push(
        await deploy(delivery, task, {
          applicationId,
          key: repository.urlKey,
          branch,
          commitSha: push.data.after,
        }),
      );
    }
    return outcomeOf(refusals);
  };

  /** Has something done with all deliveries that are so, a bounded number by statement; after it they are so no more. */
  const inBatches = async (
    where: Prisma.WebhookDeliveryWhereInput,
    signal: AbortSignal,
    act: (where: Batch) => Promise<{ readonly count: number }>,
  ): Promise<number> => {
    for (let done = 0; ;) {
      signal.throwIfAborted();
      const rows = await app.db.webhookDelivery.findMany({ where, select: { id: true }, take: batch });
      const { count } = await act({ id: { in: rows.map(({ id }) => id) } });
      done += count;
      if (rows.length < batch) return done;
    }
  };

  return {
    /**
     * Writes a message down, once for each workspace that it concerns, and has it processed. A repeat changes nothing,
     * but tries again what failed.
     */
    async receive(arrival: Arrival): Promise<void> {
      const { trusted, guid, event, body } = arrival;
      const envelope = Envelope.parse(arrival.payload);
      const matched = trusted ? [trusted] : await concerned(envelope);
      const handled = handledEvents.has(event);
      const idle = event === 'ping' ? 'GitHub reaches this server.' : 'Nothing is done with events of this kind.';
      for (const repository of matched.length > 0 ? matched : [null]) {
        const acts = handled && repository !== null;
        const workspaceId = repository?.workspaceId ?? instanceWorkspaceId;
        await app.transact(system, async (tx) => {
          const { count } = await tx.db.webhookDelivery.createMany({
            data: {
              id: newId(),
              workspaceId,
              repositoryId: repository?.id ?? null,
              guid,
              event,
              action: envelope.action ?? null,
              fullName: envelope.repository?.full_name ?? null,
              ref: envelope.ref ?? null,
              status: acts ? 'RECEIVED' : 'IGNORED',
              reason: acts ? null : handled ? 'No workspace has connected this repository.' : idle,
              payload: acts ? body : null,
            },
            skipDuplicates: true,
          });
          const row = await tx.db.webhookDelivery.findUniqueOrThrow({
            where: { workspaceId_guid: { workspaceId, guid } },
            select: { id: true, workspaceId: true, status: true },
          });
          if (acts && (count > 0 || row.status === 'FAILED')) await enqueue(tx, row, 'FIRST');
        });
      }
    },

    /** Does what a delivery is for. Safe to repeat. */
    async process(task: Task): Promise<void> {
      const { deliveryId: id, mode } = task;
      const delivery = await app.db.webhookDelivery.findUnique({ where: { id }, include: { repository: true } });
      if (!delivery || (mode === 'FIRST' && ['PROCESSED', 'IGNORED'].includes(delivery.status))) return;
      const done = (data: { status: WebhookDeliveryStatus; reason: string | null }) =>
        app.db.webhookDelivery.updateMany({
          where: { id },
          data: { ...data, attempts: { increment: 1 }, processedAt: new Date() },
        });
      try {
        await done(await act(delivery, task));
      } catch (error) {
        const reason = error instanceof DomainError ? error.message : 'Something went wrong on the server.';
        await done({ status: 'FAILED', reason: reason.slice(0, 500) });
        throw error; // the job is tried again
      }
    },

    /**
     * Processes a delivery again, by the same path: what it had done is done again only if that did not succeed, or by
     * force.
     * @throws {ValidationError} {NotFound} {Forbidden} {Conflict}
     */
    async redeliver(actor: Actor, raw: unknown): Promise<{ id: string; workspaceId: string; event: Appended }> {
      const { id, force } = parse(Redelivery, raw);
      if (!isId(id)) throw new NotFound('WebhookDelivery', id);
      return app.transact(actor, async (tx) => {
        await tx.db.$queryRaw`select 1 from webhook_delivery where id = ${id}::uuid for update`;
        const delivery = await tx.db.webhookDelivery.findUnique({ where: { id } });
        authorizeRow(actor, can.redeliverWebhook, delivery, 'WebhookDelivery', id);
        if (delivery.payload === null) throw new Conflict('There is nothing to do again: no body of it is kept.');
        if (delivery.status === 'RECEIVED') throw new Conflict('It is waiting to be processed.');
        await tx.db.webhookDelivery.update({ where: { id }, data: { status: 'RECEIVED', reason: null } });
        const { workspaceId } = delivery;
        const event = tx.append({ type: webhookRedelivered, workspaceId, subjectId: id, data: { force } });
        await enqueue(tx, delivery, force ? 'FORCE' : 'AGAIN');
        return { id, workspaceId, event };
      });
    },

    /** Forgets bodies, and later deliveries, that are old. */
    async prune(signal: AbortSignal): Promise<Readonly<Record<'bodies' | 'deliveries', number>>> {
      const before = (days: number) => ({ lt: new Date(Date.now() - days * 24 * 3_600_000) });
      const { payloadDays } = app.use(RepositorySettings);
      const old = { createdAt: before(Math.max(payloadDays, app.limits.eventRetentionDays)) };
      const deliveries = await inBatches(old, signal, (where) => app.db.webhookDelivery.deleteMany({ where }));
      const withBody = { createdAt: before(payloadDays), payload: { not: null } };
      const forget = (where: Batch) => app.db.webhookDelivery.updateMany({ where, data: { payload: null } });
      return { bodies: await inBatches(withBody, signal, forget), deliveries };
    },
  };
});

const processJob = defineJob({
  name: 'repositories.processDelivery',
  payload: Task,
  attempts: 6,
  retryDelayS: 10,
  timeoutS: 120,
  workspaceOf: ({ workspaceId }) => workspaceId,
  handle: (task, { app }: { app: App }) => app.use(Deliveries).process(task),
});

defineRetention({
  name: 'repositories.pruneDeliveries',
  cron: '41 * * * *',
  timeoutS: 600,
  remove: (app, signal) => app.use(Deliveries).prune(signal),
});
