import { InboxStatus } from '#prisma';
import type { Appended } from '../db/transact.ts';
import { loadUser, UserRef } from '../auth/schema.ts';
import { builder } from '../graphql/builder.ts';
import { globalId, rowId } from '../graphql/global-id.ts';
import { eventCursor, failing, guarded, visible } from '../graphql/kit.ts';
import { after, EventStreamItem } from '../live/schema.ts';
import { workspaceEvents } from '../live/streams.ts';
import { Inbox } from './inbox.ts';
import { inboxPolicy } from './policy.ts';

const InboxStatusEnum = builder.enumType(InboxStatus, {
  name: 'InboxStatus',
  description: 'Whether something still waits for a person.',
  values: {
    OPEN: { description: 'It waits.' },
    RESOLVED: { description: 'What it was about is over.' },
    DISMISSED: { description: 'A person has put it away.' },
  },
});

export const InboxItemRef = builder.prismaNode('InboxItem', {
  id: { field: 'id' },
  description: 'Something in a workspace that waits for a person.',
  ...guarded('InboxItem'),
  fields: (t) => ({
    kind: t.exposeString('kind'),
    title: t.exposeString('title'),
    status: t.expose('status', { type: InboxStatusEnum, description: 'Whether it still waits.' }),
    subjectType: t.exposeString('subjectType', { description: 'Type of the thing that it is about.' }),
    subjectId: t.id({
      description: 'Global id of the thing that it is about.',
      resolve: ({ subjectType, subjectId }) => globalId(subjectType, subjectId),
    }),
    data: t.expose('data', { type: 'JSON', description: 'Figures and ids, by kind.' }),
    openedAt: t.expose('openedAt', { type: 'DateTime', description: 'Since when it waits.' }),
    closedAt: t.expose('closedAt', { type: 'DateTime', nullable: true, description: 'When it was closed.' }),
    closedBy: t.field({
      type: UserRef,
      nullable: true,
      description: 'Who has put it away; null: it is open, or ended by itself.',
      compiled: { one: 'User', id: 'closedById' },
      resolve: ({ closedById }, _, context) => (closedById ? loadUser(context, closedById) : null),
    }),
  }),
});

builder.prismaObjectField('Workspace', 'inbox', (t) =>
  t.relatedConnection('inboxItems', {
    cursor: 'id',
    totalCount: true,
    description: 'What waits for a person, newest first.',
    args: {
      status: t.arg({ type: InboxStatusEnum, required: false, description: 'Only those; default: all of them.' }),
    },
    query: ({ status }, context) => ({
      where: visible(context, 'InboxItem', status ? { status } : {}),
      orderBy: [{ openedAt: 'desc' as const }, { id: 'desc' as const }],
    }),
  }),
);

builder.mutationField('dismissInboxItem', (t) =>
  t.fieldWithInput({
    access: inboxPolicy.verbs.dismissInboxItem,
    type: builder
      .objectRef<{ id: string; workspaceId: string; event: Appended | null }>('DismissInboxItemSuccess')
      .implement({
        description: 'It is put away.',
        fields: (f) => ({
          item: f.prismaField({
            type: InboxItemRef,
            description: 'The item.',
            resolve: (query, { id }, __, { app }) => app.db.inboxItem.findUniqueOrThrow({ ...query, where: { id } }),
          }),
          eventCursor: f.string(eventCursor),
        }),
      }),
    errors: failing(),
    description: 'Puts an item of the inbox away. It comes back when what it is about ends and begins again.',
    input: { id: t.input.id({ description: 'Global id of the item.' }) },
    resolve: (_, { input }, { app, actor }) => app.use(Inbox).dismiss(actor, rowId('InboxItem', input.id)),
  }),
);

builder.subscriptionField('inboxUpdated', (t) =>
  t.field({
    access: 'member',
    type: EventStreamItem,
    description: "What comes into a workspace's inbox and leaves it: the events whose subject is an InboxItem.",
    args: {
      workspaceId: t.arg.id({ description: 'Global id of the workspace.' }),
      after: t.arg.string(after('Without it the stream begins now, and a StreamCheckpoint tells where that is.')),
    },
    subscribe: (_, args, context) =>
      workspaceEvents(context, rowId('Workspace', args.workspaceId), args.after, { types: ['inbox.*'] }),
    resolve: (item) => item as never,
  }),
);
