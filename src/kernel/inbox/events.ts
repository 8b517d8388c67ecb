import { defineEvent } from '../events/define.ts';

export const inboxOpened = defineEvent<{ kind: string; subjectType: string; subjectId: string }>('inbox.opened', {
  subject: 'InboxItem',
  description: 'Something waits for a person.',
});
export const inboxClosed = defineEvent<{ kind: string }>('inbox.closed', {
  subject: 'InboxItem',
  description: 'It does not wait any more: it was put away by a person (DISMISSED), or is over (RESOLVED).',
});
