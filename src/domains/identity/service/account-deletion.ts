import { service } from '#kernel/app.ts';
import type { Actor } from '#kernel/auth/actor.ts';
import { instanceWorkspaceId } from '#kernel/auth/instance.ts';
import { authorize } from '#kernel/auth/policy.ts';
import { Sessions } from '#kernel/auth/sessions.ts';
import { hashToken } from '#kernel/crypto.ts';
import type { Transaction } from '#kernel/db/transact.ts';
import { parse } from '#kernel/input.ts';
import { defineRunKind } from '#kernel/runs/kinds.ts';
import { Runs } from '#kernel/runs/runs.ts';
import { LastOwnerOf } from '../errors.ts';
import { invitationRevoked, memberRemoved, userClosed } from '../events.ts';
import { accountDeletedMail } from '../mails.ts';
import { Deletion, deletionPhases, AccountDeletionReport, Receipt, type AccountDeletionInput } from '../model.ts';
import { can } from '../policy.ts';
import { notify } from './addresses.ts';
import { holdProof, reauthenticate } from './reauthentication.ts';
import { receiptFor, type Requested } from './receipts.ts';
import { revokeKeys } from './shared.ts';

/** One part of a deletion: does it, and says how many of what it met. In one transaction with the step's completion. */
type Part = (tx: Transaction, userId: string) => Promise<AccountDeletionReport>;

/** Ends every membership of a person, and the invitations from them and to them, told in each workspace. */
const endMemberships: Part = async (tx, userId) => {
  const user = await tx.db.user.findUnique({ where: { id: userId }, select: { email: true } });
  const invitations = await tx.db.invitation.findMany({
    where: { OR: [{ invitedById: userId }, ...(user ? [{ email: user.email }] : [])] },
    select: { id: true, workspaceId: true },
  });
  await tx.db.invitation.deleteMany({ where: { id: { in: invitations.map(({ id }) => id) } } });
  for (const { id, workspaceId } of invitations) tx.append({ type: invitationRevoked, workspaceId, subjectId: id });
  const memberships = await tx.db.membership.findMany({ where: { userId }, orderBy: { workspaceId: 'asc' } });
  await tx.db.membership.deleteMany({ where: { id: { in: memberships.map(({ id }) => id) } } });
  for (const { id, workspaceId } of memberships)
    tx.append({ type: memberRemoved, workspaceId, subjectId: id, data: { userId } });
  return { memberships: memberships.length, invitations: invitations.length };
};

const removeCredentials: Part = async (tx, userId) => {
  const { count: apiKeys } = await tx.db.apiKey.deleteMany({ where: { createdById: userId } });
  const { count: externalIdentities } = await tx.db.externalIdentity.deleteMany({ where: { userId } });
  const { count: mailTokens } = await tx.db.mailToken.deleteMany({ where: { userId } });
  const { count: sessions } = await tx.db.session.deleteMany({ where: { userId } });
  return { apiKeys, externalIdentities, mailTokens, sessions };
};

const removeData: Part = async (tx, userId) => {
  const { count: profiles } = await tx.db.profile.deleteMany({ where: { userId } });
  const { count: states } = await tx.db.userState.deleteMany({ where: { userId } });
  const { count: idempotencyKeys } = await tx.db.idempotencyKey.deleteMany({ where: { actorId: userId } });
  // Where they came from: the log refers to it, and says nothing of it any more.
  const { count: origins } = await tx.db.origin.deleteMany({ where: { userId } });
  return { profiles, states, idempotencyKeys, origins };
};

/** What belongs to workspaces stays there, and forgets whose it was. */
const anonymise: Part = async (tx, userId) => {
  const { count: artifacts } = await tx.db.artifact.updateMany({
    where: { createdById: userId },
    data: { createdById: null },
  });
  return { artifactsAnonymised: artifacts };
};

/** Steps in order, and what each does. All of it can be done again: then there is nothing left to do. */
const parts: Readonly<Record<string, Part>> = {
  memberships: endMemberships,
  credentials: removeCredentials,
  data: removeData,
  anonymise,
};

/** Deletes what hangs on an account, and the account. The log of events is never rewritten: its ids lead nowhere then. */
const accountDeletionKind = defineRunKind<AccountDeletionInput>({
  name: 'AccountDeletion',
  versions: [1],
  phases: deletionPhases,
  initial: 'PENDING',
  ends: { canceled: () => 'CANCELED', failed: () => 'FAILED' },
  steps: () => [...Object.keys(parts), 'account'],
  begin: () => 'DELETING',
  deadlineS: 24 * 3600,
  async execute(context) {
    const { userId } = context.input;
    const step = (name: string, part: Part) =>
      context.step(
        name,
        { timeoutS: 600 },
        async () => null,
        async (tx) => report(tx, context.run.id, await part(tx, userId)),
      );
    for (const [name, part] of Object.entries(parts)) await step(name, part);
    await step('account', async (tx) => {
      const user = await tx.db.user.findUnique({ where: { id: userId } });
      if (!user) return {};
      // Somebody may have made them a member, or keys may have come, since the first step.
      const late = await endMemberships(tx, userId);
      await notify(context.app, tx, user.email, accountDeletedMail(user));
      await tx.db.user.delete({ where: { id: userId } });
      return { ...late, accounts: 1 };
    });
    return { phase: 'DELETED' };
  },
  async onCreate(tx, run, { receiptHash }) {
    await tx.db.accountDeletion.create({ data: { id: run.id, receiptHash } });
  },
  retryInput: async (_tx, run) => run.input as AccountDeletionInput,
});

/** Adds to the report of a deletion. The caller holds the run's row, so nobody else does meanwhile. */
async function report(tx: Transaction, id: string, counts: AccountDeletionReport): Promise<void> {
  const before = AccountDeletionReport.parse((await tx.db.accountDeletion.findUniqueOrThrow({ where: { id } })).report);
  const after = { ...before };
  for (const [name, count] of Object.entries(counts)) after[name] = (after[name] ?? 0) + count;
  await tx.db.accountDeletion.update({ where: { id }, data: { report: after } });
}

/** Deletion of accounts. The only writer of account_deletion. */
export const AccountDeletions = service('account deletions', (app) => ({
  /**
   * Closes the actor's account at once, with all its sessions, keys and streams, and queues a run that deletes it.
   * @returns the receipt, by which anybody who has it can see what was done; it is kept as a hash only
   * @throws {ValidationError} {Unauthenticated} {Forbidden} {ReauthenticationRequired} {RateLimited} {IdempotencyConflict}
   * @throws {LastOwnerOf} naming the workspaces that would be left without an owner
   */
  async deleteMyAccount(actor: Actor, raw: unknown): Promise<Requested> {
    const { password, idempotencyKey: key } = parse(Deletion, raw);
    authorize(actor, can.deleteMyAccount, null);
    const proved = await reauthenticate(app, actor, password);
    const { id: userId } = proved;
    const mutation = 'deleteMyAccount';
    const { token: receipt, hash: receiptHash } = receiptFor(app, actor, { mutation, subject: userId, key });
    // Not of the password, of which not even a hash is to be kept.
    const request = { workspaceId: instanceWorkspaceId, mutation, key, input: {} };
    const { event } = await app.transact(actor, (tx) =>
      app.use(Runs).once(tx, request, async () => {
        await holdProof(tx, actor, proved);
        await keepOwners(tx, userId);
        await tx.db.user.update({ where: { id: userId }, data: { closedAt: new Date() } });
        await app.use(Sessions).endAll(tx, userId);
        await revokeKeys(tx, { createdById: userId });
        for (const { workspaceId } of await tx.db.membership.findMany({ where: { userId } }))
          tx.append({ type: userClosed, workspaceId, subjectId: userId, data: { userId } });
        tx.append({ type: userClosed, workspaceId: instanceWorkspaceId, subjectId: userId, data: { userId } });
        return app.use(Runs).create(tx, {
          kind: accountDeletionKind,
          workspaceId: instanceWorkspaceId,
          input: { userId, receiptHash },
          lockKey: `account:${userId}`,
          trigger: 'API',
        });
      }),
    );
    return { receipt, event };
  },

  /** The run that a receipt is for, or the last retry of it; null for anything else. */
  async byReceipt(receipt: string) {
    const parsed = Receipt.safeParse(receipt);
    if (!parsed.success) return null;
    const found = await app.db.accountDeletion.findFirst({
      where: { receiptHash: hashToken(parsed.data) },
      include: { run: true },
      orderBy: { id: 'desc' },
    });
    return found && { run: found.run, report: AccountDeletionReport.parse(found.report) };
  },
}));

/**
 * Under the locks that leaving a workspace and changing a role take too, of every workspace of theirs: so that two owners
 * cannot go at once, and nobody is made the only owner while they go.
 * @throws {LastOwnerOf}
 */
async function keepOwners(tx: Transaction, userId: string): Promise<void> {
  await tx.db.$queryRaw`
    select 1 from workspace w where w.deleted_at is null and exists (
      select 1 from membership m where m.workspace_id = w.id and m.user_id = ${userId}::uuid)
    order by w.id for no key update of w`;
  const orphans = await tx.db.workspace.findMany({
    where: {
      deletedAt: null,
      memberships: { some: { userId, role: 'OWNER' } },
      NOT: { memberships: { some: { userId: { not: userId }, role: 'OWNER', user: { closedAt: null } } } },
    },
    select: { id: true, name: true },
    orderBy: { id: 'asc' },
  });
  if (orphans.length > 0) throw new LastOwnerOf(orphans);
}
