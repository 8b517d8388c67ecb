import type { InboxItem, Prisma } from '#prisma';
import { service } from '../app.ts';
import type { Actor } from '../auth/actor.ts';
import { authorizeRow } from '../auth/policy.ts';
import type { Appended, Transaction } from '../db/transact.ts';
import { NotFound } from '../errors.ts';
import { isId, newId } from '../ids.ts';
import { inboxClosed, inboxOpened } from './events.ts';
import { inboxPolicy } from './policy.ts';

/** Something that waits for a person. */
export interface Waiting {
  readonly workspaceId: string;
  /** `<domain>.<what>`. */
  readonly kind: string;
  readonly subjectType: string;
  readonly subjectId: string;
  /** One line for a person, at most 300 characters. */
  readonly title: string;
  readonly data: Prisma.InputJsonObject;
  /** Until what it is about is over, no other item with this key is opened, also when a person has put it away. */
  readonly key: string;
}

/** The writer of inbox items. What waits for people, whatever domain it comes from. */
export const Inbox = service('inbox', (app) => ({
  /** Opens an item, unless one with its key has been opened and not resolved. */
  async open(tx: Transaction, { workspaceId, kind, subjectType, subjectId, title, data, key }: Waiting): Promise<void> {
    const id = newId();
    const row = { id, workspaceId, kind, subjectType, subjectId, title: title.slice(0, 300), data, openKey: key };
    const { count } = await tx.db.inboxItem.createMany({ data: [row], skipDuplicates: true });
    if (count > 0) tx.append({ type: inboxOpened, workspaceId, subjectId: id, data: { kind, subjectType, subjectId } });
  },

  /** What a key's item was about is over: closes it, and lets the next one be opened. Fine when there is none. */
  async resolve(tx: Transaction, workspaceId: string, key: string): Promise<void> {
    const item = await tx.db.inboxItem.findUnique({ where: { workspaceId_openKey: { workspaceId, openKey: key } } });
    if (!item) return;
    await close(tx, item, 'RESOLVED', null);
    await tx.db.inboxItem.updateMany({ where: { id: item.id }, data: { openKey: null } });
  },

  /** Puts an item away. One that is closed stays as it is. @throws {Unauthenticated} {NotFound} {Forbidden} */
  async dismiss(
    actor: Actor,
    id: string,
  ): Promise<{ readonly id: string; readonly workspaceId: string; readonly event: Appended | null }> {
    if (!isId(id)) throw new NotFound('InboxItem', id);
    return app.transact(actor, async (tx) => {
      const item = await tx.db.inboxItem.findUnique({ where: { id } });
      authorizeRow(actor, inboxPolicy.verbs.dismissInboxItem, item, 'InboxItem', id);
      return { id, workspaceId: item.workspaceId, event: await close(tx, item, 'DISMISSED', actor.userId) };
    });
  },
}));

async function close(
  tx: Transaction,
  { id, workspaceId, kind }: InboxItem,
  status: 'RESOLVED' | 'DISMISSED',
  closedById: string | null,
): Promise<Appended | null> {
  const { count } = await tx.db.inboxItem.updateMany({
    where: { id, status: 'OPEN' },
    data: { status, closedAt: new Date(), closedById },
  });
  return count === 0
    ? null
    : tx.append({ type: inboxClosed, workspaceId, subjectId: id, from: 'OPEN', to: status, data: { kind } });
}
