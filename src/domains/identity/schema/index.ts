import './account-deletion.ts';
import './accounts.ts';
import './api-keys.ts';
import './members.ts';
import './profile.ts';
import './sso.ts';
import './workspaces.ts';
