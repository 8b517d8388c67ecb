import { Prisma, type Membership, type Role } from '#prisma';
import { atLeast, lowerRole, type Actor } from '#kernel/auth/actor.ts';
import type { Verb } from '#kernel/auth/policy.ts';
import type { Appended, Transaction } from '#kernel/db/transact.ts';
import { Forbidden, Unauthenticated } from '#kernel/errors.ts';
import { isId, newId } from '#kernel/ids.ts';
import { LastOwner } from '../errors.ts';
import { apiKeyRevoked, invitationRevoked, memberAdded, memberRemoved, memberRoleChanged } from '../events.ts';
import { can } from '../policy.ts';

/** A row that was written, and the event that tells of it. */
export interface Written {
  readonly id: string;
  readonly workspaceId: string;
  readonly event: Appended;
}

/** Nobody gives or takes a role above their own. @throws {Forbidden} */
export function mayGive(actor: Actor, workspaceId: string, role: Role): void {
  const own = actor.roles.get(workspaceId);
  if (!own || !atLeast(own, role)) throw new Forbidden(`identity.give${role}`, workspaceId);
}

/**
 * The same by the role that the actor has now, in a transaction that holds the workspace's lock: whoever asked may have
 * been demoted or removed since the request began.
 * @throws {Forbidden}
 */
export async function mayGiveNow(
  tx: Transaction,
  actor: Actor,
  verb: Verb,
  workspaceId: string,
  ...given: readonly Role[]
): Promise<void> {
  const { userId } = actor;
  const now = userId && (await tx.db.membership.findUnique({ where: { workspaceId_userId: { workspaceId, userId } } }));
  const asked = actor.roles.get(workspaceId);
  if (!now || !asked) throw new Forbidden(verb.name, workspaceId);
  const role = lowerRole(asked, now.role);
  if (!atLeast(role, verb.least as Role)) throw new Forbidden(verb.name, workspaceId);
  for (const one of given) if (!atLeast(role, one)) throw new Forbidden(`identity.give${one}`, workspaceId);
}

/** Locks a person whose account is not being deleted: it is not closed before the transaction is over. @throws {Unauthenticated} */
export async function requireOpen(tx: Transaction, userId: string): Promise<void> {
  const found = await tx.db.$queryRaw<unknown[]>`
    select 1 from app_user where id = ${userId}::uuid and closed_at is null for share`;
  if (found.length === 0) throw new Unauthenticated('The account is closed.');
}

/** Whether somebody with this role may ask others to take that one. */
export const mayInvite = (own: Role | undefined, role: Role): boolean =>
  own !== undefined && atLeast(own, can.inviteMember.least as Role) && atLeast(own, role);

export async function addMember(tx: Transaction, workspaceId: string, userId: string, role: Role): Promise<Written> {
  const { id } = await tx.db.membership.create({ data: { id: newId(), workspaceId, userId, role } });
  const event = tx.append({ type: memberAdded, workspaceId, subjectId: id, data: { userId, role } });
  return { id, workspaceId, event };
}

/**
 * A workspace that is not being deleted, locked until the end of the transaction: its members change, and its owners
 * are counted, under this lock only, so that two of them cannot leave at once. False when there is none.
 */
export async function lockWorkspace(tx: Transaction, id: string): Promise<boolean> {
  const rows = await tx.db.$queryRaw<unknown[]>`
    select 1 from workspace where id = ${id}::uuid and deleted_at is null for no key update`;
  return rows.length > 0;
}

/** A membership, its workspace locked. */
export async function lockMembership(tx: Transaction, id: string): Promise<Membership | null> {
  if (!isId(id)) return null;
  const found = await tx.db.membership.findUnique({ where: { id }, select: { workspaceId: true } });
  if (!found || !(await lockWorkspace(tx, found.workspaceId))) return null;
  // As it is now that nobody else changes it.
  return tx.db.membership.findUnique({ where: { id } });
}

/** @throws {LastOwner} when no other membership of the workspace is an owner's */
async function keepAnOwner(tx: Transaction, leaving: { id: string; workspaceId: string }): Promise<void> {
  const others = await tx.db.membership.count({
    // Somebody whose account is being deleted is leaving, too.
    where: { workspaceId: leaving.workspaceId, role: 'OWNER', id: { not: leaving.id }, user: { closedAt: null } },
  });
  if (others === 0) throw new LastOwner();
}

/** Changes the role of a membership whose workspace is locked. @throws {LastOwner} */
export async function giveRole(tx: Transaction, membership: Membership, role: Role): Promise<Written> {
  const { id, workspaceId, userId, role: from } = membership;
  if (from === 'OWNER' && role !== 'OWNER') await keepAnOwner(tx, membership);
  await tx.db.membership.update({ where: { id }, data: { role } });
  await endInvitationsOf(tx, membership, role);
  const event = tx.append({ type: memberRoleChanged, workspaceId, subjectId: id, from, to: role, data: { userId } });
  return { id, workspaceId, event };
}

/**
 * Ends a membership whose workspace is locked, and with it the keys that the person made there and the invitations that
 * they sent.
 * @throws {LastOwner}
 */
export async function endMembership(tx: Transaction, membership: Membership): Promise<Written> {
  const { id, workspaceId, userId } = membership;
  if (membership.role === 'OWNER') await keepAnOwner(tx, membership);
  await tx.db.membership.delete({ where: { id } });
  await endInvitationsOf(tx, membership, undefined);
  // Revoked, not only out of use: their keys must not come back to life when the person does.
  await revokeKeys(tx, { workspaceId, createdById: userId });
  const event = tx.append({ type: memberRemoved, workspaceId, subjectId: id, data: { userId } });
  return { id, workspaceId, event };
}

/**
 * Ends keys, and tells it in their workspaces, which closes their streams. The only way to revoke one, but for rotation.
 * @returns the event of each that had not been revoked before, by its id
 */
export async function revokeKeys(
  tx: Transaction,
  which: Prisma.ApiKeyWhereInput,
): Promise<ReadonlyMap<string, Appended>> {
  const revoked = await tx.db.apiKey.updateManyAndReturn({
    where: { ...which, revokedAt: null },
    data: { revokedAt: new Date() },
    select: { id: true, workspaceId: true },
  });
  return new Map(
    revoked.map(({ id, workspaceId }) => [id, tx.append({ type: apiKeyRevoked, workspaceId, subjectId: id })]),
  );
}

/** Ends the invitations of a member to what they, with this role, may not give. */
async function endInvitationsOf(
  tx: Transaction,
  { workspaceId, userId }: Pick<Membership, 'workspaceId' | 'userId'>,
  own: Role | undefined,
): Promise<void> {
  const sent = await tx.db.invitation.findMany({
    where: { workspaceId, invitedById: userId },
    select: { id: true, role: true },
  });
  const ended = sent.filter(({ role }) => !mayInvite(own, role));
  await tx.db.invitation.deleteMany({ where: { id: { in: ended.map(({ id }) => id) } } });
  for (const { id } of ended) tx.append({ type: invitationRevoked, workspaceId, subjectId: id });
}

export const isTaken = (error: unknown): boolean =>
  error instanceof Prisma.PrismaClientKnownRequestError && error.code === 'P2002';
