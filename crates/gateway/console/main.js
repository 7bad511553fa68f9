// The console: the parts of the page, started in the order in which they need each other.

import { startConnection } from "./connection.js";
import { startConnections } from "./connections.js";
import { startCut } from "./cut.js";
import { by } from "./dom.js";
import { startLog } from "./log.js";
import { startPublish } from "./publish.js";
import { startShortcuts } from "./shortcuts.js";
import { startStatus } from "./status.js";
import { startTabs } from "./tabs.js";
import { startTheme } from "./theme.js";
import { startWatch } from "./watch.js";

startTheme();
startConnection();
startPublish();
startWatch();
startCut();
startConnections();
startLog();
// Shown when it is complete: what is added to a page that is shown moves what stands below.
by("main").hidden = false;
startTabs();
startStatus();
startShortcuts();
