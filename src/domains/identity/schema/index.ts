import './accounts.ts';
import './api-keys.ts';
import './members.ts';
import './workspaces.ts';
