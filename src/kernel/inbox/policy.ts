import { definePolicy, inWorkspace } from '../auth/policy.ts';

export const inboxPolicy = definePolicy('inbox', {
  verbs: { dismissInboxItem: 'MEMBER' },
  rows: { InboxItem: inWorkspace('VIEWER') },
});
