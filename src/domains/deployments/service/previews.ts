import { z } from 'zod';
import type { Application, Preview, PreviewPolicy, Prisma, RunTrigger } from '#prisma';
import { service, type App } from '#kernel/app.ts';
import { system, type Actor } from '#kernel/auth/actor.ts';
import { authorizeRow } from '#kernel/auth/policy.ts';
import type { Appended, Transaction } from '#kernel/db/transact.ts';
import { Conflict, DomainError, IllegalTransition, NotFound } from '#kernel/errors.ts';
import { Inbox } from '#kernel/inbox/inbox.ts';
import { isId, newId } from '#kernel/ids.ts';
import { parse } from '#kernel/input.ts';
import { defineJob } from '#kernel/jobs/define.ts';
import { openRun } from '#kernel/runs/runs.ts';
import { Sealing } from '#kernel/sealing/sealing.ts';
import { validateEnvironment } from '../../../integrations/process/index.ts';
import { previewApproved, previewEvents, previewPolicySet } from '../events.ts';
import { isFromBefore, maxEnvironment, maxVariables, NewPreviewPolicy, SeenPreview, type Pull } from '../model.ts';
import { can } from '../policy.ts';
import { authorizeChanges, isTaken } from './applications.ts';
import { applicationDeletionKind, removeWithin } from './deletion.ts';
import { Deployments } from './deployments.ts';
import { removalWatchers, sourceWatchers, tellPreviewWatchers } from './ports.ts';
import { giveSuppressions, giveVariables, previewValue, runningPreview } from './preview-applications.ts';
import { lockApplication, refuse, type Written } from './shared.ts';

/** Most pull requests of an application that wait for approval: anybody can open one. */
const maxAwaiting = 100;
/** Previews that one statement, or one tick of the clock, looks at. */
const batch = 100;

type Waiting = 'AWAITING_APPROVAL' | 'AWAITING_ROOM';
type Over = 'REJECTED' | 'EXPIRED' | 'CLOSED';

/** States in which a commit waits, or was given away to be deployed. */
const open: readonly Preview['state'][] = ['AWAITING_APPROVAL', 'AWAITING_ROOM', 'ACTIVE'];

/** States from which a commit can be approved. */
export const approvable: readonly Preview['state'][] = ['AWAITING_APPROVAL', 'REJECTED', 'EXPIRED'];

/** How an event of a pull request bears on one application. */
export interface Told {
  /** Whether the application is deployed from the branch that it would change; decided under the application's lock. */
  readonly concerns: (application: Application) => boolean;
  /** Whether somebody asked for it again: a deployment of the commit that did not succeed is made again. */
  readonly again: boolean;
}

export interface PreviewWritten {
  readonly id: string;
  readonly workspaceId: string;
  readonly event: Appended | null;
}

/** Why a preview is not deployed now; `forLong`: unless somebody does something. */
interface Waits {
  readonly reason: string;
  readonly forLong: boolean;
}

const approvalKey = (id: string): string => `preview-approval:${id}`;
const roomKey = (id: string): string => `preview-room:${id}`;

/**
 * Pull requests that run beside the application that they would change. The only writer of preview, preview_policy and
 * preview_variable. All of a preview is decided under the lock of the application that it is of.
 */
export const Previews = service('previews', (app) => {
  const find = async (id: string): Promise<Preview> => {
    const preview = isId(id) ? await app.db.preview.findUnique({ where: { id } }) : null;
    if (!preview) throw new NotFound('Preview', id);
    return preview;
  };

  /** With the application that it is of locked; null: it is gone. */
  const locked = async (tx: Transaction, { id, ofId }: Pick<Preview, 'id' | 'ofId'>) => {
    const of = await lockApplication(tx, ofId);
    const preview = of && (await tx.db.preview.findUnique({ where: { id } }));
    return preview ? { of, preview } : null;
  };

  const move = async (
    tx: Transaction,
    preview: Preview,
    state: Waiting | Over,
    data: Prisma.PreviewUpdateInput = {},
  ): Promise<{ preview: Preview; event: Appended }> => {
    const moved = await tx.db.preview.update({
      where: { id: preview.id },
      data: { reason: null, closedAt: state === 'CLOSED' ? new Date() : null, ...data, state },
    });
    return { preview: moved, event: append(tx, moved, preview.state, state) };
  };

  const append = (tx: Transaction, moved: Preview, from: Preview['state'], to: Waiting | Over): Appended => {
    const { id: subjectId, workspaceId, number, headSha } = moved;
    return tx.append({ type: previewEvents[to], workspaceId, subjectId, from, to, data: { number, headSha } });
  };

  const leaveInbox = async (tx: Transaction, { id, workspaceId }: Preview): Promise<void> => {
    await app.use(Inbox).resolve(tx, workspaceId, approvalKey(id));
    await app.use(Inbox).resolve(tx, workspaceId, roomKey(id));
  };

  const openItem = (tx: Transaction, of: Application, preview: Preview, what: 'approval' | 'room', said: string) =>
    app.use(Inbox).open(tx, {
      workspaceId: preview.workspaceId,
      kind: what === 'approval' ? 'deployments.previewApproval' : 'deployments.previewRoom',
      subjectType: 'Preview',
      subjectId: preview.id,
      title: `${of.name} #${preview.number} ${said}`,
      data: { applicationId: of.id, number: preview.number, headSha: preview.headSha, isFork: preview.isFork },
      key: what === 'approval' ? approvalKey(preview.id) : roomKey(preview.id),
    });

  const askApproval = (tx: Transaction, of: Application, preview: Preview) =>
    openItem(tx, of, preview, 'approval', `waits for approval of ${preview.headSha.slice(0, 10)}: ${preview.title}`);

  /** Takes a preview away: its deployment is told to stop, and what runs it is removed with all that it has. */
  const end = async (
    tx: Transaction,
    preview: Preview,
    state: Over,
    reason: string,
    data: Prisma.PreviewUpdateInput = {},
  ): Promise<Appended> => {
    const { workspaceId, ofId, applicationId, headSha } = preview;
    const child = applicationId === null ? null : await lockApplication(tx, applicationId);
    const serves =
      child?.activeReleaseId != null &&
      (await tx.db.release.count({ where: { id: child.activeReleaseId, commitSha: headSha } })) > 0;
    const { event } = await move(tx, preview, state, {
      reason,
      approvedSha: null,
      approvedById: null,
      approvedAt: null,
      ...data,
    });
    await leaveInbox(tx, preview);
    if (child) await removeWithin(app, tx, child, triggerOf(tx));
    // What was told of a commit that served stays told.
    if (!serves && open.includes(preview.state)) await tellPreviewWatchers(app, tx, preview.id);
    await app.jobs.enqueue(tx, fillJob, { workspaceId, applicationId: ofId });
    return event;
  };

  /** All that are not closed of an application, which is locked. */
  const closeAll = async (tx: Transaction, ofId: string, reason: string): Promise<void> => {
    const all = await tx.db.preview.findMany({ where: { ofId, state: { not: 'CLOSED' } }, orderBy: { id: 'asc' } });
    for (const preview of all) await end(tx, preview, 'CLOSED', reason);
  };

  /** What an open pull request of an application with previews comes to; null: it did something. */
  const follow = async (
    tx: Transaction,
    {
      of,
      policy,
      known,
      pull,
      again,
    }: {
      readonly of: Application;
      readonly policy: PreviewPolicy;
      readonly known: Preview | null;
      readonly pull: Pull;
      readonly again: boolean;
    },
  ): Promise<{ readonly reason: string | null; readonly deploy: string | null }> => {
    const { number, headSha, headBefore, headRef, title, isFork, githubId, updatedAt: pullUpdatedAt } = pull;
    const seen = { title, headRef, isFork, pullUpdatedAt };
    if (known && known.headSha === headSha && known.state !== 'CLOSED') {
      const failed = again && known.state === 'ACTIVE' && known.isFork === isFork && (await failedOf(tx, known));
      if (!failed) {
        await tx.db.preview.update({ where: { id: known.id }, data: seen });
        return { reason: 'Its newest commit is known.', deploy: null };
      }
      await move(tx, known, 'AWAITING_ROOM', seen);
      return { reason: null, deploy: known.id };
    }
    const asks = asksFor(policy, pull);
    const waiting = { ofId: of.id, state: 'AWAITING_APPROVAL' as const, NOT: { githubId, number } };
    if (asks && (await tx.db.preview.count({ where: waiting })) >= maxAwaiting)
      return { reason: `${maxAwaiting} pull requests of the application wait for approval already.`, deploy: null };
    const state = asks ? 'AWAITING_APPROVAL' : 'AWAITING_ROOM';
    const head = {
      ...seen,
      headSha,
      headBefore,
      state,
      reason: null,
      approvedSha: null,
      approvedById: null,
      approvedAt: null,
      closedAt: null,
    } as const;
    const preview = known
      ? await tx.db.preview.update({ where: { id: known.id }, data: head })
      : await tx.db.preview.create({
          data: { ...head, id: newId(), workspaceId: of.workspaceId, ofId: of.id, githubId, number },
        });
    await leaveInbox(tx, preview);
    if (asks) await askApproval(tx, of, preview);
    append(tx, preview, known?.state ?? 'CLOSED', state);
    await tellPreviewWatchers(app, tx, preview.id);
    return { reason: null, deploy: asks ? null : preview.id };
  };

  /** Whether the newest deployment of a preview ended without a success. */
  const failedOf = async (tx: Transaction, { applicationId }: Preview): Promise<boolean> => {
    if (applicationId === null) return true;
    const newest = await tx.db.deployment.findFirst({
      where: { applicationId },
      orderBy: { id: 'desc' },
      select: { run: { select: { status: true } } },
    });
    return newest !== null && ['FAILED', 'CANCELED', 'TIMED_OUT'].includes(newest.run.status);
  };

  /** Deploys the newest commit of a preview that may be. @returns why that cannot be now; null: it is, or has to be approved @throws {DomainError} */
  const deployWithin = async (tx: Transaction, of: Application, preview: Preview): Promise<Waits | null> => {
    const policy = await tx.db.previewPolicy.findUnique({ where: { applicationId: of.id } });
    if (!policy || of.removalAskedAt) return { reason: 'The application has no previews now.', forLong: false };
    if (asksFor(policy, preview) && preview.approvedSha !== preview.headSha) {
      // That all of them are to be approved was said while it waited.
      const { preview: asked } = await move(tx, preview, 'AWAITING_APPROVAL');
      await leaveInbox(tx, asked);
      await askApproval(tx, of, asked);
      await tellPreviewWatchers(app, tx, asked.id);
      return null;
    }
    const present = preview.applicationId === null ? null : await lockApplication(tx, preview.applicationId);
    if (present && (present.removalAskedAt || preview.isFork)) {
      // Code of a stranger that runs already is not there while git fetches with the workspace's token, as the same user.
      await removeWithin(app, tx, present, triggerOf(tx));
      return { reason: 'What ran the commit before is being removed.', forLong: false };
    }
    if (!present) {
      const used = await tx.db.preview.count({ where: { ofId: of.id, application: { is: { removalAskedAt: null } } } });
      if (used >= policy.maxPreviews)
        return { reason: `${used} of ${policy.maxPreviews} previews are in use.`, forLong: true };
    }
    const application = await runningPreview(app, tx, { of, preview, present });
    await giveVariables(app, tx, application, preview.isFork && !policy.forksVariables ? null : of.id);
    await giveSuppressions(tx, application.id, of.id);
    const { id: deploymentId } = await app.use(Deployments).startWithin(tx, application, preview.headSha);
    await tx.db.preview.update({
      where: { id: preview.id },
      data: { state: 'ACTIVE', reason: null, applicationId: application.id, deployedAt: new Date() },
    });
    await leaveInbox(tx, preview);
    const { workspaceId, id: subjectId, number, headSha } = preview;
    const data = { number, headSha, deploymentId };
    tx.append({ type: previewEvents.ACTIVE, workspaceId, subjectId, from: preview.state, to: 'ACTIVE', data });
    return null;
  };

  /** Says why a preview waits for room. */
  const wait = async (
    tx: Transaction,
    of: Application,
    preview: Preview,
    { reason, forLong }: Waits,
  ): Promise<void> => {
    // Each is asked again from time to time, those that waited longest first.
    const data = { reason: reason.slice(0, 500), updatedAt: new Date() };
    const moved = await tx.db.preview.update({ where: { id: preview.id }, data });
    if (preview.reason === moved.reason) return;
    if (forLong) await openItem(tx, of, moved, 'room', `waits: ${reason}`);
    append(tx, moved, preview.state, 'AWAITING_ROOM');
    await tellPreviewWatchers(app, tx, preview.id);
  };

  /** Deploys a preview that waits for room, or says why that cannot be now. May be repeated. */
  const deploy = async (actor: Actor, { id, ofId }: Pick<Preview, 'id' | 'ofId'>): Promise<void> => {
    const attempt = (work: (tx: Transaction, of: Application, preview: Preview) => Promise<void>): Promise<void> =>
      app.transact(actor, async (tx) => {
        const found = await locked(tx, { id, ofId });
        if (found?.preview.state === 'AWAITING_ROOM') await work(tx, found.of, found.preview);
      });
    try {
      await attempt(async (tx, of, preview) => {
        const waits = await deployWithin(tx, of, preview);
        if (waits) await wait(tx, of, preview, waits);
      });
    } catch (error) {
      const reason = isTaken(error)
        ? 'Another application has taken its name.'
        : error instanceof DomainError
          ? error.message
          : null;
      if (reason === null) throw error;
      await attempt((tx, of, preview) => wait(tx, of, preview, { reason, forLong: true }));
    }
  };

  return {
    /**
     * Says whether pull requests of an application get previews, and how. What is not given stays as it is, or is the
     * default when they are turned on. Turned off, all previews and their variables go.
     * @throws {ValidationError} {NotFound} {Forbidden} {Conflict}
     */
    async setPolicy(actor: Actor, raw: unknown): Promise<Written> {
      const input = parse(NewPreviewPolicy, raw);
      const { applicationId: id, enabled } = input;
      const changes = Object.entries(input.environment ?? {});
      const values = changes.flatMap(([name, value]) => (value === null ? [] : [[name, value] as const]));
      refuse([['environment', validateEnvironment(Object.fromEntries(values))]]);
      if (!isId(id)) throw new NotFound('Application', id);
      return app.transact(actor, async (tx) => {
        const application = await lockApplication(tx, id);
        authorizeRow(actor, can.setPreviewPolicy, application, 'Application', id);
        authorizeChanges(actor, input.environment ?? {}, application.workspaceId);
        const { workspaceId } = application;
        if (application.removalAskedAt) throw new Conflict('The application is being deleted.');
        if ((await tx.db.preview.count({ where: { applicationId: id } })) > 0)
          throw new Conflict('A preview has no previews.');
        if (!enabled) {
          await tx.db.previewVariable.deleteMany({ where: { applicationId: id } });
          await tx.db.previewPolicy.deleteMany({ where: { applicationId: id } });
          await closeAll(tx, id, 'Previews were turned off.');
          const none = { approval: null, maxPreviews: null, maxAgeH: null, forksVariables: null };
          const event = tx.append({ type: previewPolicySet, workspaceId, subjectId: id, data: { enabled, ...none } });
          return { id, workspaceId, event };
        }
        const given = {
          ...(input.approval == null ? {} : { approval: input.approval }),
          ...(input.maxPreviews == null ? {} : { maxPreviews: input.maxPreviews }),
          ...(input.maxAgeH == null ? {} : { maxAgeH: input.maxAgeH }),
          ...(input.forksVariables == null ? {} : { forksVariables: input.forksVariables }),
        };
        const { approval, maxPreviews, maxAgeH, forksVariables } = await tx.db.previewPolicy.upsert({
          where: { applicationId: id },
          create: { applicationId: id, ...given },
          update: given,
        });
        await tx.db.previewVariable.deleteMany({
          where: { applicationId: id, name: { in: changes.map(([name]) => name) } },
        });
        const sealing = app.use(Sealing);
        await tx.db.previewVariable.createMany({
          data: await Promise.all(
            values.map(async ([name, value]) => {
              const variable = newId();
              const sealed = await sealing.seal(value, previewValue.context(variable));
              return { id: variable, applicationId: id, name, value: sealed };
            }),
          ),
        });
        const all = await tx.db.previewVariable.findMany({ where: { applicationId: id } });
        // Sealed values tell how long they are, near enough for a limit of this kind.
        const size = all.reduce((sum, { name, value }) => sum + name.length + (value.length * 3) / 4, 0);
        refuse([
          ['environment', all.length > maxVariables ? `must be at most ${maxVariables} in all` : null],
          ['environment', size > maxEnvironment ? `must have at most ${maxEnvironment} characters in all` : null],
        ]);
        const data = { enabled, approval, maxPreviews, maxAgeH, forksVariables };
        const event = tx.append({ type: previewPolicySet, workspaceId, subjectId: id, data });
        await app.jobs.enqueue(tx, fillJob, { workspaceId, applicationId: id });
        return { id, workspaceId, event };
      });
    },

    /**
     * Follows an event of a pull request, for one application. Safe to repeat, in any order.
     * @returns why nothing was done; null: something was
     * @throws {NotFound} {Forbidden}
     */
    async told(actor: Actor, ofId: string, pull: Pull, { concerns, again }: Told): Promise<string | null> {
      const { githubId, number, updatedAt: pullUpdatedAt } = pull;
      const { reason, deploy: id } = await app.transact(actor, async (tx) => {
        const nothing = (why: string | null) => ({ reason: why, deploy: null });
        const of = await lockApplication(tx, ofId);
        if (!of || of.removalAskedAt) return nothing('The application is being deleted.');
        authorizeRow(actor, can.createDeployment, of, 'Application', ofId);
        const known = await tx.db.preview.findUnique({ where: { ofId_githubId_number: { ofId, githubId, number } } });
        const policy = await tx.db.previewPolicy.findUnique({ where: { applicationId: ofId } });
        if (known && isFromBefore(pull, known)) return nothing('A newer event of this pull request counted already.');
        const wanted = pull.isOpen && concerns(of);
        if (!known && !policy) return nothing('Pull requests get no previews.');
        // GitHub's clock and this one are not the same.
        if (!known && policy && pullUpdatedAt.getTime() < policy.createdAt.getTime() - 60_000)
          return nothing('It is from before previews were turned on.');
        if (policy && wanted) return follow(tx, { of, policy, known, pull, again });
        if (known && known.state !== 'CLOSED') {
          const why = pull.isOpen
            ? 'It is not for the branch of the application any more.'
            : 'The pull request was closed.';
          await end(tx, known, 'CLOSED', why, { pullUpdatedAt });
          return nothing(null);
        }
        if (known) await tx.db.preview.update({ where: { id: known.id }, data: { pullUpdatedAt } });
        // An event of the time when it was open may come yet.
        else if (!pull.isOpen && concerns(of)) await remember(tx, of, pull);
        return nothing(pull.isOpen ? 'It is not for a branch with previews.' : 'It has no preview.');
      });
      if (id !== null) await deploy(actor, { id, ofId });
      return reason;

      async function remember(tx: Transaction, of: Application, closed: Pull): Promise<void> {
        const { headSha, headBefore, headRef, title, isFork } = closed;
        await tx.db.preview.create({
          data: {
            id: newId(),
            workspaceId: of.workspaceId,
            ofId,
            githubId,
            number,
            headSha,
            headBefore,
            headRef,
            title,
            isFork,
            state: 'CLOSED',
            reason: 'The pull request was closed.',
            pullUpdatedAt,
            closedAt: new Date(),
          },
        });
      }
    },

    /**
     * Lets exactly this commit of a pull request be deployed. Again: nothing happens.
     * @throws {ValidationError} {NotFound} {Forbidden} {Conflict} when another commit is the newest {IllegalTransition}
     */
    async approve(actor: Actor, raw: unknown): Promise<PreviewWritten> {
      const { id, commitSha } = parse(SeenPreview, raw);
      const asked = await find(id);
      const written = await app.transact(actor, async (tx) => {
        const preview = (await locked(tx, asked))?.preview ?? null;
        authorizeRow(actor, can.approvePreview, preview, 'Preview', id);
        const { workspaceId, number, headSha, state } = preview;
        if (state === 'CLOSED') throw new IllegalTransition(state, 'ACTIVE', []);
        requireNewest(preview, commitSha);
        if (!approvable.includes(state)) return { id, workspaceId, event: null };
        const moved = { approvedSha: headSha, approvedById: actor.userId, approvedAt: new Date(), reason: null };
        await tx.db.preview.update({ where: { id }, data: { ...moved, state: 'AWAITING_ROOM' } });
        await leaveInbox(tx, preview);
        await tellPreviewWatchers(app, tx, id);
        const data = { number, headSha };
        const type = previewApproved;
        return { id, workspaceId, event: tx.append({ type, workspaceId, subjectId: id, from: state, to: 'AWAITING_ROOM', data }) }; // prettier-ignore
      });
      await deploy(actor, asked);
      return written;
    },

    /**
     * Refuses this commit of a pull request: it is not deployed, and taken away where it was. What was approved before
     * serves on. A new commit asks again.
     * @throws {ValidationError} {NotFound} {Forbidden} {Conflict} when another commit is the newest {IllegalTransition}
     */
    async reject(actor: Actor, raw: unknown): Promise<PreviewWritten> {
      const { id, commitSha } = parse(SeenPreview, raw);
      const asked = await find(id);
      return app.transact(actor, async (tx) => {
        const preview = (await locked(tx, asked))?.preview ?? null;
        authorizeRow(actor, can.rejectPreview, preview, 'Preview', id);
        const { workspaceId, state } = preview;
        if (state === 'CLOSED') throw new IllegalTransition(state, 'REJECTED', []);
        requireNewest(preview, commitSha);
        if (state === 'REJECTED') return { id, workspaceId, event: null };
        if (state === 'ACTIVE')
          return { id, workspaceId, event: await end(tx, preview, 'REJECTED', 'It was refused.') };
        const { event } = await move(tx, preview, 'REJECTED', {
          approvedSha: null,
          approvedById: null,
          approvedAt: null,
        });
        await leaveInbox(tx, preview);
        await tellPreviewWatchers(app, tx, id);
        return { id, workspaceId, event };
      });
    },

    /** Closes all of a repository, in the caller's transaction. */
    async closeOf(
      tx: Transaction,
      where: { readonly workspaceId: string; readonly githubId: bigint },
      reason: string,
    ): Promise<void> {
      const all = await tx.db.preview.findMany({
        where: { ...where, state: { not: 'CLOSED' } },
        select: { id: true, ofId: true },
        orderBy: [{ ofId: 'asc' }, { id: 'asc' }],
      });
      for (const one of all) {
        const found = await locked(tx, one);
        if (found && found.preview.state !== 'CLOSED') await end(tx, found.preview, 'CLOSED', reason);
      }
    },

    /** Gives room that is free to those that waited longest. */
    async giveRoom(where: Prisma.PreviewWhereInput): Promise<void> {
      const waiting = await app.db.preview.findMany({
        where: { ...where, state: 'AWAITING_ROOM' },
        select: { id: true, ofId: true },
        orderBy: [{ updatedAt: 'asc' }, { id: 'asc' }],
        take: batch,
      });
      for (const one of waiting) await deploy(system, one);
    },

    /** What the clock does: what waits is tried again, what is old goes, and a removal that failed is asked for again. */
    async tidy(signal: AbortSignal): Promise<void> {
      const old = await app.db.$queryRaw<{ id: string; ofId: string; seen: Date; hours: number }[]>`
        select p.id, p.of_id as "ofId", p.updated_at as seen, y.max_age_h as hours from preview p join preview_policy y on y.application_id = p.of_id
        where (p.state in ('AWAITING_APPROVAL', 'ACTIVE') or (p.state = 'REJECTED' and p.application_id is not null))
          and case p.state when 'ACTIVE' then p.deployed_at else p.updated_at end < now() - make_interval(hours => y.max_age_h)
        order by p.id limit ${batch}`;
      for (const { id, ofId, seen, hours } of old) {
        signal.throwIfAborted();
        await app.transact(system, async (tx) => {
          const found = await locked(tx, { id, ofId });
          // As it was when it was chosen.
          if (found && found.preview.updatedAt.getTime() === seen.getTime())
            await end(tx, found.preview, 'EXPIRED', `Nothing new for ${hours} hours.`);
        });
      }
      const stuck = await app.db.preview.findMany({
        where: { application: { is: { removalAskedAt: { lt: new Date(Date.now() - 60_000) } } } },
        select: { id: true, ofId: true, applicationId: true },
        orderBy: { id: 'asc' },
        take: batch,
      });
      for (const { applicationId, ...preview } of stuck) {
        signal.throwIfAborted();
        const lockKey = `application:${applicationId}`;
        if ((await app.db.run.count({ where: { kind: applicationDeletionKind.name, lockKey, ...openRun } })) > 0)
          continue;
        await app.transact(system, async (tx) => {
          await locked(tx, preview);
          const child = applicationId === null ? null : await lockApplication(tx, applicationId);
          if (child?.removalAskedAt) await removeWithin(app, tx, child, triggerOf(tx));
        });
      }
      await this.giveRoom({ updatedAt: { lt: new Date(Date.now() - 20_000) } });
    },

    /** The repository or the branch of an application, which is locked, is another one: its pull requests are not for it. */
    moved: (tx: Transaction, applicationId: string): Promise<void> =>
      closeAll(tx, applicationId, 'The application is deployed from elsewhere now.'),

    /** The deletion of an application was asked for, which is locked, as is what it is a preview of. */
    async removing(tx: Transaction, applicationId: string): Promise<void> {
      await closeAll(tx, applicationId, 'The application is being deleted.');
      const preview = await tx.db.preview.findUnique({ where: { applicationId } });
      if (preview && !['CLOSED', 'REJECTED', 'EXPIRED'].includes(preview.state))
        await end(tx, preview, 'EXPIRED', 'It was deleted.');
    },

    /** What ran a preview goes: there is room for another. */
    async gone(tx: Transaction, applicationId: string): Promise<void> {
      const preview = await tx.db.preview.findUnique({ where: { applicationId } });
      if (preview)
        await app.jobs.enqueue(tx, fillJob, { workspaceId: preview.workspaceId, applicationId: preview.ofId });
    },
  };
});

/** Whether somebody has to approve each commit of it. */
const asksFor = ({ approval }: PreviewPolicy, { isFork }: { readonly isFork: boolean }): boolean =>
  isFork || approval === 'ALWAYS';

const triggerOf = ({ actor }: Transaction): RunTrigger =>
  actor.kind === 'MACHINE' ? 'WEBHOOK' : actor.kind === 'SYSTEM' ? 'SCHEDULE' : 'API';

/** @throws {Conflict} what somebody saw is not what there is */
function requireNewest({ headSha }: Preview, commitSha: string): void {
  if (headSha !== commitSha)
    throw new Conflict(`The newest commit of the pull request is ${headSha} now. Look at that one first.`);
}

const fillJob = defineJob({
  name: 'deployments.fillPreviews',
  payload: z.object({ workspaceId: z.string(), applicationId: z.string() }),
  attempts: 5,
  retryDelayS: 5,
  timeoutS: 300,
  workspaceOf: ({ workspaceId }) => workspaceId,
  handle: ({ applicationId }, { app }: { app: App }) => app.use(Previews).giveRoom({ ofId: applicationId }),
});

defineJob({
  name: 'deployments.tidyPreviews',
  payload: z.object({}),
  attempts: 2,
  retryDelayS: 20,
  timeoutS: 300,
  cron: '* * * * *',
  handle: (_payload, { app, signal }: { app: App; signal: AbortSignal }) => app.use(Previews).tidy(signal),
});

sourceWatchers.push((app, tx, applicationId) => app.use(Previews).moved(tx, applicationId));

removalWatchers.push({
  asked: (app, tx, applicationId) => app.use(Previews).removing(tx, applicationId),
  gone: (app, tx, applicationId) => app.use(Previews).gone(tx, applicationId),
});
